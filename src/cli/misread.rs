//! A job that cannot be read, in words: where, what, by which rule, and what was probably meant.

use super::output::Problem;
use crate::{config::nearest, domain::json::Mistake};

/// Letters of a path that are shown; a longer one loses its middle.
const PATH: usize = 80;

/// Letters of what is wrong, which may repeat what somebody wrote.
const WRONG: usize = 600;

/// A problem of the text at `place`.
pub(super) fn problem(place: &str, mistake: &Mistake) -> Problem {
    let wrong = shortened(&mistake.problem, WRONG);
    let mut problem = Problem::new("the job cannot be accepted");
    problem.what.push(format!("{place}: {}: {wrong}", shortened(&mistake.path, PATH)));
    if mistake.problem.starts_with("unknown field ") {
        problem.rule = Some("jobs are read strictly: a misspelt member would be dropped without a word".to_owned());
    }
    if let Some(meant) = meant(&mistake.problem) {
        problem.next.push(format!("did you mean {meant:?}?"));
    }
    problem.next("longshore schema jobs shows every member")
}

/// The known word that is nearest to an unknown one, in serde's words: ``unknown field `souce`, expected one of `source` ``.
fn meant(problem: &str) -> Option<&str> {
    let behind = problem.strip_prefix("unknown field `").or_else(|| problem.strip_prefix("unknown variant `"))?;
    // What was written may hold anything, these words, too: the last of them are serde's.
    let (word, expected) = behind.rsplit_once("`, expected ")?;
    nearest(word, expected.split('`').skip(1).step_by(2))
}

/// A text without its middle when it is longer than this.
fn shortened(text: &str, most: usize) -> String {
    let length = text.chars().count();
    if length <= most {
        return text.to_owned();
    }
    let half = most.saturating_sub(1) / 2;
    let start: String = text.chars().take(half).collect();
    let end: String = text.chars().skip(length - half).collect();
    format!("{start}…{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(path: &str, problem: &str) -> Problem {
        super::problem("nic.json", &Mistake { path: path.to_owned(), problem: problem.to_owned() })
    }

    #[test]
    fn the_nearest_known_word_is_named() {
        for (problem, next) in [
            ("unknown field `souce`, expected one of `source`, `sha256`", "did you mean \"source\"?"),
            ("unknown field `souce`, expected `source` or `sha256`", "did you mean \"source\"?"),
            ("unknown variant `submision`, expected one of `submission`, `upload`", "did you mean \"submission\"?"),
            ("unknown field `x`, expected `id`, expected `source`", "longshore schema jobs shows every member"),
            ("unknown field `a`b`, expected `source`", "longshore schema jobs shows every member"),
            ("missing field `kind`", "longshore schema jobs shows every member"),
        ] {
            assert_eq!(told("spec", problem).next.first().map(String::as_str), Some(next), "{problem}");
        }
    }

    #[test]
    fn the_rule_of_misspelt_members_stands_under_them_alone() {
        assert!(told("spec", "unknown field `souce`, expected `source`").rule.is_some());
        for problem in ["unknown variant `x`, expected `y`", "recursion limit exceeded", "missing field `kind`"] {
            assert_eq!(told("spec", problem).rule, None, "{problem}");
        }
    }

    #[test]
    fn a_long_path_keeps_its_ends() {
        let path = format!("spec.{}.last", "[0]".repeat(128));
        let what = told(&path, "recursion limit exceeded").what.concat();
        assert!(
            what.starts_with("nic.json: spec.[0]") && what.ends_with("[0].last: recursion limit exceeded"),
            "{what}"
        );
        assert!(what.chars().count() < 130 && what.contains('…'), "{what}");
        assert_eq!(shortened("äöü", 3), "äöü");
        assert_eq!(shortened("äöüßé", 3), "ä…é");
    }
}
