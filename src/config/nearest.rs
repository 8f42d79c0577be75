//! "Did you mean": the known word that a mistyped one is nearest to.

/// The candidate nearest to `word`, when it is near enough to be meant: at most a third of its letters differ.
///
/// Case does not count; two letters that changed places are one difference. Of two equally near the first wins.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.chars().take(80).flat_map(char::to_lowercase).collect();
    let near = |candidate: &'a str| {
        let letters: Vec<char> = candidate.chars().take(80).flat_map(char::to_lowercase).collect();
        let most = (word.len().max(letters.len()) / 3).max(1);
        let distance = distance(&word, &letters);
        // a wholly different word of one or two letters is not meant
        (distance <= most && distance < letters.len().max(1)).then_some((distance, candidate))
    };
    let mut best: Option<(usize, &str)> = None;
    for (distance, candidate) in candidates.into_iter().filter_map(near) {
        if best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Letters to insert, remove, replace or swap with their neighbour to make `b` of `a`.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut previous_a = None;
    for (row, letter_a) in a.iter().enumerate() {
        let mut current = vec![row + 1];
        let mut previous_b = None;
        for (column, letter_b) in b.iter().enumerate() {
            let at = |line: &[usize], index: usize| line.get(index).copied().unwrap_or(usize::MAX - 1);
            let replaced = at(&last, column) + usize::from(letter_a != letter_b);
            let mut fewest = replaced.min(at(&last, column + 1) + 1).min(at(&current, column) + 1);
            if column > 0 && previous_a == Some(letter_b) && previous_b == Some(letter_a) {
                fewest = fewest.min(at(&before_last, column - 1) + 1);
            }
            current.push(fewest);
            previous_b = Some(letter_b);
        }
        before_last = std::mem::replace(&mut last, current);
        previous_a = Some(letter_a);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_its_word() {
        let words = ["lease", "listen", "concurrency", "drain"];
        for (typed, meant) in
            [("laese", "lease"), ("lisen", "listen"), ("CONCURENCY", "concurrency"), ("drainn", "drain")]
        {
            assert_eq!(nearest(typed, words), Some(meant), "{typed}");
        }
    }

    #[test]
    fn a_different_word_finds_nothing() {
        for typed in ["", "x", "colour", "retention"] {
            assert_eq!(nearest(typed, ["lease", "listen", "id"]), None, "{typed}");
        }
        assert_eq!(nearest("x", ["y"]), None);
    }

    #[test]
    fn distances_count_letters() {
        let distance =
            |a: &str, b: &str| super::distance(&a.chars().collect::<Vec<_>>(), &b.chars().collect::<Vec<_>>());
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("abc", "acb", 1),
            ("kitten", "sitting", 3),
            ("abc", "abc", 0),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}
