use super::*;
use crate::config::{Mistake, Mistakes, Origin};

/// The four screens that must look right: narrow and wide, ASCII and more.
fn screens() -> [(&'static str, Style); 4] {
    let screen = |width, is_unicode| Style { is_terminal: true, width, is_unicode, ..Style::plain() };
    [
        ("60_ascii", screen(60, false)),
        ("60", screen(60, true)),
        ("120_ascii", screen(120, false)),
        ("120", screen(120, true)),
    ]
}

fn problems() -> Vec<Problem> {
    vec![
        Problem::new("the package was refused before anything was sent")
            .what("nic.cab: driver/nic.inf names WINDOWS_v100_RS5, which attestation signing does not accept")
            .rule("operating-system codes against the test harness (hardware-api 9)")
            .next("take the code out of requestedSignatures, or submit an HLK package (testHarness \"hlk\")"),
        Problem::new("Partner Center refused the product (403, on createProduct)")
            .what("the application may read but not create")
            .next("add the role \"Driver Submitter\" to application 66666666-7777-4888-8999-aaaaaaaaaaaa")
            .next("longshore job retry nic-4711")
            .trace(
                "correlation id 5d0c8f0e-1111-4222-8333-41b241b241b2, request id 2b9c0000-1111-4222-8333-77aa77aa77aa",
            ),
        Problem::from(&Mistakes {
            list: vec![
                Mistake {
                    origin: Some(Origin::File { number: 1, path: "longshore.toml".into(), line: 14, column: 3 }),
                    key: "accounts.contoso.tenant_id".into(),
                    problem: "not a GUID".into(),
                    hint: None,
                },
                Mistake {
                    origin: Some(Origin::Variable("LONGSHORE__WORKER__LAESE".into())),
                    key: "worker.laese".into(),
                    problem: "no such setting".into(),
                    hint: Some("did you mean \"lease\"?".into()),
                },
            ],
        }),
        Problem::new("a name with \u{1b}[31m escapes and https://h/b?sig=abcdefghij · in it"),
    ]
}

fn jobs() -> Table {
    let mut table = Table::new(
        &[
            Column::whole("ID"),
            Column::new("KIND").leaves(2),
            Column::new("ACCOUNT").leaves(4),
            Column::whole("STATE"),
            Column::new("STEP").leaves(3),
            Column::new("AGE").number().leaves(1),
            Column::new("NEXT").leaves(5),
        ],
        "no jobs yet · longshore submit FILE makes one",
    );
    let state = |text: &str, paint| (text.to_owned(), Some(paint));
    let plain = |text: &str| (text.to_owned(), None);
    for (id, at, step) in [
        ("nic-driver-4711-release-2-4-with-a-very-long-name", state("completed", Paint::Good), "download"),
        ("audio-88", state("dead-lettered", Paint::Bad), "create-product · looked 3 times"),
    ] {
        let cells =
            [plain(id), plain("submission"), plain("contoso"), at, plain(step), plain("6 min"), plain("14:09:02")];
        table.painted_row(cells);
    }
    table
}

#[test]
fn errors_look_right_on_every_screen() {
    for (name, style) in screens() {
        let text: Vec<String> = problems().iter().map(|problem| problem.render(&style)).collect();
        insta::assert_snapshot!(format!("errors_{name}"), text.join("\n"));
        for line in text.concat().lines() {
            let has_long_word = line.split(' ').any(|word| word.chars().count() > 40);
            assert!(line.chars().count() <= style.width || has_long_word || line.starts_with("error:"), "{line}");
        }
    }
}

#[test]
fn tables_look_right_on_every_screen_and_keep_ids_whole() {
    for (name, style) in screens() {
        let text = jobs().render(&style);
        assert!(text.contains("nic-driver-4711-release-2-4-with-a-very-long-name"), "{text}");
        insta::assert_snapshot!(format!("table_{name}"), text);
    }
    let empty = Table::new(&[Column::new("ID")], "no jobs yet · longshore submit FILE makes one");
    assert_eq!(empty.render(&Style::plain()), "no jobs yet - longshore submit FILE makes one\n");
}

#[test]
fn colour_changes_nothing_but_colour() {
    let plain = Style { width: 120, is_unicode: true, ..Style::plain() };
    let coloured = Style { is_coloured: true, ..plain };
    let strip = |text: &str| {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("\u{1b}[") {
            out.push_str(before);
            rest = after.split_once('m').map_or("", |(_, rest)| rest);
        }
        out + rest
    };
    let trimmed = |text: &str| text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
    assert!(jobs().render(&coloured).contains("\u{1b}["));
    assert_eq!(trimmed(&strip(&jobs().render(&coloured))), trimmed(&jobs().render(&plain)));
    for problem in problems() {
        assert_eq!(trimmed(&strip(&problem.render(&coloured))), trimmed(&problem.render(&plain)));
    }
}
