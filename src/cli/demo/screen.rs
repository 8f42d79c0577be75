//! The demo's last lines: the verdict, and what is printed when it is not clean.

use std::{path::Path, time::Duration};

use super::{
    super::output::{Mark, Paint, Problem, Style, duration},
    findings::Findings,
};

/// Columns before the text of a line.
const LABEL: usize = 9;

/// Verdict and files, and, when all is well, what to do next.
pub(super) fn verdict(style: &Style, findings: &Findings, out: &Path, took: Duration) -> String {
    let is_clean = findings.broken.is_empty();
    let mark = style.mark(if is_clean { Mark::Done } else { Mark::Failed });
    let files = match findings.packages.len() {
        0 => format!("no signed package below {}", out.display()),
        1 => format!("1 signed package below {}", out.display()),
        count => format!("{count} signed packages below {}", out.display()),
    };
    let mut rows =
        vec![("verdict", findings.verdict_line()), ("files", format!("{files} · {} in all", duration(took)))];
    if is_clean {
        rows.push(("next", "longshore submit --help · README.md, \"your own account\"".to_owned()));
    }
    // The last of the rows that moved has no line end behind it.
    let gap = if style.is_live { "\n\n" } else { "\n" };
    let room = style.width.saturating_sub(LABEL + 3);
    let rows = rows.iter().map(|(label, text)| {
        let mark = if *label == "verdict" { mark.as_str() } else { " " };
        let label = style.paint(Paint::Strong, &format!("{label:<LABEL$}"));
        let lines = Style::wrap(&style.text(text), room).join(&format!("\n{:indent$}", "", indent = LABEL + 3));
        format!("{label} {mark} {lines}\n")
    });
    // What went wrong stands apart.
    let end = if is_clean { "" } else { "\n" };
    gap.to_owned() + &rows.collect::<String>() + end
}

/// Which driver, which invariant, where the logs lie.
pub(super) fn failure(findings: &Findings, logs: &Path) -> Problem {
    let summary = match findings.broken.len() {
        1 => "the demo failed: what is promised was not kept".to_owned(),
        count => format!("the demo failed: {count} things that are promised were not kept"),
    };
    let problem = findings.broken.iter().cloned().fold(Problem::new(summary), Problem::what);
    problem.next(format!("read the workers' logs in {}", logs.display())).next(
        "run it again: longshore demo; when it fails again, report it with these logs, they hold no secrets of yours",
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn counted(products: u64, doubled: u64) -> Value {
        json!({ "totals": {
            "products": products, "products_doubled": doubled, "committed_submissions_doubled": 0, "orphans": 0
        } })
    }

    fn shown(style: &Style, findings: &Findings) -> String {
        let took = Duration::from_secs(14);
        let text = verdict(style, findings, Path::new("demo-out"), took);
        if findings.broken.is_empty() {
            return text;
        }
        text + &failure(findings, Path::new("/tmp/longshore-demo-4711/logs")).render(style)
    }

    fn screens(name: &str, findings: &Findings) {
        let screen = |width, is_unicode| Style { is_terminal: true, width, is_unicode, ..Style::plain() };
        for (suffix, style) in [("60_ascii", screen(60, false)), ("120", screen(120, true))] {
            insta::assert_snapshot!(format!("{name}_{suffix}"), shown(&style, findings));
        }
    }

    #[test]
    fn a_clean_verdict_says_what_to_do_next() {
        screens("clean", &Findings::sample(counted(5, 0), 0, 5, &[], &[]));
    }

    #[test]
    fn a_verdict_that_is_not_clean_names_driver_and_invariant_and_where_the_logs_lie() {
        let broken = [
            "audio: 2 products for one job",
            "camera: it ended failed: the upload URL stayed refused (403) three times in a row",
            "the sandbox: 6 products for 5 jobs",
            "the demo's secret stands in /tmp/longshore-demo-4711/logs/worker-2.log",
        ];
        let secrets = ["/tmp/longshore-demo-4711/logs/worker-2.log"];
        screens("broken", &Findings::sample(counted(6, 1), 1, 3, &secrets, &broken));
    }
}
