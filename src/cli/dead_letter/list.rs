//! Dead letters listed, counted and shown.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    List, MOST,
    home::Home,
    reason,
    replay::{ONE_INITIAL, can_create_again, is_at_create},
};
use crate::{
    cli::{
        context::{Context, Reached},
        exit::Exit,
        job,
        output::{Column, Form, Paint, Table},
        stop::Outcome,
        text::Put as _,
    },
    clock,
    domain::{
        dead_letter::{DeadLetter, DeadLetters},
        event::Class,
    },
};

pub(super) async fn run(context: &mut Context, home: &Home<'_>, list: List) -> Outcome {
    let limit = if list.counts { MOST } else { 1_000 };
    let filter = DeadLetters { class: list.class, account: list.of.account.clone(), limit, ..DeadLetters::default() };
    let letters = home.drawer.list(filter).await?;
    if let (true, Reached::Embedded(app)) = (letters.is_empty(), home.reached) {
        list.of.known(&app.loaded, &**app).await?;
    }
    if home.drawer.has_more() {
        let (letters, bytes) = home.drawer.looked_at();
        context.remark(&format!(
            "these are the oldest {letters} ({} MiB); more lie behind them: {MOST} letters, or 64 MiB of them, are looked at \
             at once",
            bytes.div_ceil(1 << 20)
        ));
    }
    if list.counts {
        return counts(context, &letters);
    }
    let stale = home.drawer.stale(&letters).await;
    let row = |letter: &DeadLetter| row(letter, stale.contains(&letter.id));
    match context.form() {
        Form::Json => {
            let rows: Vec<Value> = letters.iter().map(row).collect();
            context.out.document(&json!({ "dead_letters": rows }))?;
        }
        Form::Ndjson => {
            for letter in &letters {
                context.out.line(&row(letter))?;
            }
        }
        Form::Table => {
            let columns = [
                Column::whole("NUMBER").number(),
                Column::whole("JOB"),
                Column::whole("ACCOUNT").leaves(3),
                Column::whole("CLASS"),
                Column::whole("AGE").number().leaves(1),
                Column::new("WHY").leaves(4),
            ];
            let mut table = Table::new(&columns, "no dead letters: nothing waits for a person");
            let now = clock::moment();
            for letter in &letters {
                table.painted_row([
                    (letter.id.to_string(), None),
                    (letter.job.as_ref().map(|job| job.id.to_string()).unwrap_or_default(), None),
                    (letter.job.as_ref().map(|job| job.account.to_string()).unwrap_or_default(), None),
                    (letter.class.to_string(), Some(Paint::Bad)),
                    (job::age(now.since(letter.at)), Some(Paint::Dim)),
                    (why(letter, stale.contains(&letter.id)), None),
                ]);
            }
            let text = table.render(&context.style);
            context.out.text(&text)?;
        }
    }
    Ok(Exit::Done)
}

/// How many there are of each class and fingerprint, most first.
fn counts(context: &mut Context, letters: &[DeadLetter]) -> Outcome {
    let mut counted: BTreeMap<(Class, &str), u64> = BTreeMap::new();
    for letter in letters {
        *counted.entry((letter.class, letter.fingerprint.as_str())).or_default() += 1;
    }
    let mut counted: Vec<_> = counted.into_iter().collect();
    counted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let row = |((class, fingerprint), count): &((Class, &str), u64)| json!({ "schema": 1, "class": class, "fingerprint": fingerprint, "count": count });
    match context.form() {
        Form::Json => context.out.document(&json!({ "counts": counted.iter().map(row).collect::<Vec<_>>() }))?,
        Form::Ndjson => {
            for line in &counted {
                context.out.line(&row(line))?;
            }
        }
        Form::Table => {
            let columns =
                [Column::whole("COUNT").number(), Column::whole("CLASS"), Column::new("FINGERPRINT").leaves(1)];
            let mut table = Table::new(&columns, "no dead letters: nothing waits for a person");
            for ((class, fingerprint), count) in &counted {
                table.painted_row([
                    (count.to_string(), None),
                    (class.to_string(), Some(Paint::Bad)),
                    ((*fingerprint).to_owned(), None),
                ]);
            }
            let text = table.render(&context.style);
            context.out.text(&text)?;
        }
    }
    Ok(Exit::Done)
}

fn why(letter: &DeadLetter, is_stale: bool) -> String {
    if is_stale { format!("run again since; {}", letter.message) } else { letter.message.clone() }
}

fn row(letter: &DeadLetter, is_stale: bool) -> Value {
    let reason = reason(letter);
    json!({
        "schema": 1,
        "number": letter.id,
        "job": letter.job.as_ref().map(|job| &job.id),
        "account": letter.job.as_ref().map(|job| &job.account),
        "at": letter.at.timestamp(),
        "class": letter.class,
        "fingerprint": letter.fingerprint,
        "message": letter.message,
        "stale": is_stale,
        "next_step": reason.map(|reason| &reason.next),
        "step": reason.and_then(|reason| reason.step),
        "candidates": reason.map(|reason| &reason.candidates),
    })
}

pub(super) fn show(context: &mut Context, letter: &DeadLetter, name: &str, is_stale: bool) -> Outcome {
    if context.form() != Form::Table {
        let mut value = row(letter, is_stale);
        if let Some(members) = value.as_object_mut() {
            members.insert("ticket".to_owned(), json!(letter.end.as_ref().map(|end| &end.ticket)));
        }
        context.out.document(&value)?;
        return Ok(Exit::Done);
    }
    let style = context.style;
    let mut out = String::new();
    let mut line = |label: &str, text: &str| {
        let label = style.paint(Paint::Strong, &format!("{label:<10}"));
        out.put(format_args!("{label} {}\n", style.text(text)));
    };
    let account = letter.job.as_ref().map(|job| format!("{} · ", job.account)).unwrap_or_default();
    let at = context.times.full(letter.at.timestamp());
    line(name, &format!("{account}{}, set aside {at}", letter.class));
    line("why", &why(letter, is_stale));
    if let Some(reason) = reason(letter) {
        for candidate in &reason.candidates {
            let created =
                candidate.created.map(|at| format!(", created {}", context.times.full(at))).unwrap_or_default();
            line("candidate", &format!("{} {:?}{created}, {}", candidate.id, candidate.name, candidate.evidence));
        }
        if letter.class == Class::NeedsPerson && is_at_create(reason.step) {
            for candidate in &reason.candidates {
                line("decide", &format!("longshore dead-letter replay {name} --adopt {}     it is ours", candidate.id));
            }
            if can_create_again(letter) {
                line(
                    "decide",
                    &format!("longshore dead-letter replay {name} --create-again     it is not; make another"),
                );
            } else {
                line("else", ONE_INITIAL);
            }
        } else {
            line("next", &reason.next);
        }
    }
    context.out.text(&out)?;
    Ok(Exit::Done)
}
