//! What every home must do.

pub(crate) mod listings;
pub(crate) mod memory;
pub(crate) mod queue;
pub(crate) mod quota;
pub(crate) mod settle;
pub(crate) mod turns;

/// Makes a test of every property for one home: `port_suite!(MyHarness, #[tokio::test])`.
#[macro_export]
macro_rules! port_suite {
    ($harness:ty, $(#[$test:meta])+) => {
        $crate::port_suite!(@all $harness, [$(#[$test])+],
            queue::a_message_is_given_to_one_taker_only
            queue::a_message_of_a_dead_worker_comes_again_and_is_marked
            queue::a_delivery_that_is_dropped_comes_again_and_is_marked
            queue::a_receive_that_is_cancelled_loses_nothing
            queue::a_parked_ticket_comes_when_it_is_due_and_not_before
            queue::lanes_are_apart_and_unknown_ones_are_quiet
            queue::a_ticket_is_handed_on_as_it_was
            memory::an_unknown_job_is_unknown_to_all_and_a_known_one_known_to_all
            memory::a_swap_of_another_epoch_or_version_is_refused_and_brings_what_is_there
            memory::of_many_claims_at_once_one_wins
            memory::a_place_is_busy_while_its_holder_lives_and_free_when_it_is_dead
            memory::a_settled_or_dropped_delivery_ends_its_claim
            memory::a_ticket_behind_its_record_is_stale_and_one_of_an_ended_job_is_told_its_end
            memory::a_memory_that_was_lost_knows_nobody
            settle::a_step_that_is_done_leaves_record_event_and_next_ticket
            settle::an_end_is_announced_once_and_set_aside_unless_it_is_completed
            settle::an_end_that_is_announced_again_is_the_same_event
            settle::a_lost_holder_announces_nothing_and_its_ticket_goes_back_marked
            settle::letting_go_frees_the_same_place_at_once
            settle::a_message_that_never_was_a_job_is_set_aside
            turns::a_turn_is_for_one_job_until_it_is_given_back
            turns::a_stamp_stays_with_its_turn_and_proves_until_another_has_had_it
            turns::who_does_not_know_of_a_stamp_does_not_give_its_turn_back
            turns::the_first_fact_about_an_owner_stays
            listings::a_listing_is_read_by_one_and_used_by_all
            listings::another_goes_on_from_the_next_link
            listings::a_page_may_take_as_long_as_its_call_and_its_waits
            listings::a_listing_that_began_too_early_is_read_anew_and_the_old_one_stays_readable
            listings::a_page_that_fails_five_times_makes_the_listing_incomplete
            quota::all_workers_together_stay_within_the_rate
            quota::a_pause_told_to_one_holds_for_all
            quota::five_failures_close_the_gate_for_all_until_one_call_succeeds
            quota::polls_in_flight_are_counted_by_account
        );
    };
    (@all $harness:ty, $tests:tt, $($module:ident::$name:ident)+) => {
        $($crate::port_suite!(@one $harness, $tests, $module, $name);)+
    };
    (@one $harness:ty, [$(#[$test:meta])+], $module:ident, $name:ident) => {
        $(#[$test])+
        async fn $name() {
            $crate::suite::$module::$name::<$harness>().await;
        }
    };
}
