//! The job decoder: any bytes are a job or a mistake; a job that is written again reads as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use longshore::domain::job::Job;

fuzz_target!(|body: &[u8]| {
    if let Ok(job) = Job::decode(body, || None) {
        let text = serde_json::to_vec(&job).expect("a job can be written");
        let again = Job::decode(&text, || None).expect("what we write we read");
        assert_eq!(job.content_hash(), again.content_hash());
    }
});
