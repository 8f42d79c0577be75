//! The cells: every point that the program lists, a lost answer for every call, and further rows for the calls that a
//! step makes after its first: transfers, the next poll, looks, and the call after a look that found nothing.

use longshore::sandbox::FaultKind;
use serde_json::Value;

/// The column of the cells without a kill: the request is executed and its answer lost.
pub(crate) const ANSWER_LOST: &str = "answer-lost";
/// The edge whose point lets the request go first.
pub(crate) const REQUEST_SENT: &str = "request-sent";

/// Edges that belong to one call.
const OF_A_CALL: [&str; 3] = [REQUEST_SENT, ANSWER_LOST, "answer-read"];
/// Edges around the mark of a write.
const OF_BEGIN: [&str; 2] = ["before-begin", "after-begin"];
/// Steps that begin a write.
const WRITES: [&str; 3] = ["create-product", "create-submission", "commit"];

/// One row: a step, and at which of its passes it is struck.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) step: String,
    /// What sets it apart from the step's first pass.
    pub(crate) what: &'static str,
    /// The pass at which the point kills, counted from 1.
    pub(crate) pass: u32,
    /// The try whose call is held back, or loses its answer.
    pub(crate) r#try: u32,
    /// The operation of the blob host that is struck in place of the try's call.
    pub(crate) blob: Option<&'static str>,
    /// What happens to the first try's call beforehand.
    pub(crate) before: Option<FaultKind>,
}

/// One cell.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cell {
    pub(crate) row: Row,
    pub(crate) edge: String,
}

impl Row {
    fn first(step: &str) -> Self {
        Self { step: step.to_owned(), what: "", pass: 1, r#try: 0, blob: None, before: None }
    }

    fn second(step: &str, what: &'static str) -> Self {
        Self { what, pass: 2, ..Self::first(step) }
    }

    /// Its name in the table.
    pub(crate) fn name(&self) -> String {
        if self.what.is_empty() { self.step.clone() } else { format!("{}, {}", self.step, self.what) }
    }
}

impl Cell {
    /// Its name, good for a folder.
    pub(crate) fn name(&self) -> String {
        format!("{}.{}", self.row.name().replace(", ", "-"), self.edge)
    }

    /// What arms its worker; none when no worker dies.
    pub(crate) fn armed(&self) -> Option<(String, u32)> {
        (self.edge != ANSWER_LOST).then(|| (format!("{}.{}", self.row.step, self.edge), self.row.pass))
    }

    /// Does the struck request change something at the service?
    pub(crate) fn is_write(&self) -> bool {
        let is_first_call = self.row.blob.is_none() && self.row.r#try == 0;
        self.row.blob == Some("putBlob") || (is_first_call && WRITES.contains(&self.row.step.as_str()))
    }
}

/// All rows, columns and cells.
#[derive(Debug)]
pub(crate) struct Matrix {
    pub(crate) rows: Vec<Row>,
    pub(crate) edges: Vec<String>,
    pub(crate) cells: Vec<Cell>,
}

impl Matrix {
    /// Generates the cells from the list of points.
    pub(crate) fn of(listed: &Value) -> Self {
        let text = |point: &Value, name: &str| point[name].as_str().unwrap().to_owned();
        let points: Vec<(String, String)> =
            listed["points"].as_array().unwrap().iter().map(|p| (text(p, "step"), text(p, "edge"))).collect();
        let (mut steps, mut edges) = (Vec::new(), Vec::new());
        for (step, edge) in &points {
            if !steps.contains(step) {
                steps.push(step.clone());
            }
            if !edges.contains(edge) {
                edges.push(edge.clone());
            }
        }
        // The edges of all steps together, in the order of a step that has them all.
        let order = |edge: &String| points.iter().filter(|(s, _)| s == WRITES[0]).position(|(_, e)| e == edge);
        edges.sort_by_key(order);
        let sent = edges.iter().position(|edge| edge == REQUEST_SENT).expect("there are calls");
        edges.insert(sent + 1, ANSWER_LOST.to_owned());
        let mut matrix = Self { rows: Vec::new(), edges, cells: Vec::new() };
        let passes = |step: &str, edge: &str| {
            let point = if edge == ANSWER_LOST { REQUEST_SENT } else { edge };
            points.iter().any(|(s, e)| s == step && e == point)
        };
        for step in &steps {
            matrix.add(Row::first(step), |edge| passes(step, edge));
            if WRITES.contains(&step.as_str()) {
                let look = Row { r#try: 1, before: Some(FaultKind::LostAnswer), ..Row::second(step, "look") };
                matrix.add(look, |edge| passes(step, edge) && !OF_BEGIN.contains(&edge));
                let again = Row { before: Some(FaultKind::DroppedRequest), ..Row::second(step, "again") };
                matrix.add(again, |edge| OF_BEGIN.contains(&edge));
            }
            match step.as_str() {
                "upload" => matrix.transfer(step, "putBlob"),
                "download" => matrix.transfer(step, "downloadBlob"),
                "poll" => matrix.add(Row { r#try: 1, ..Row::second(step, "next") }, |edge| passes(step, edge)),
                _ => {}
            }
        }
        matrix
    }

    fn transfer(&mut self, step: &str, operation: &'static str) {
        let row = Row { blob: Some(operation), ..Row::second(step, "bytes") };
        self.add(row, |edge| OF_A_CALL.contains(&edge));
    }

    fn add(&mut self, row: Row, has: impl Fn(&str) -> bool) {
        let edges = self.edges.iter().filter(|edge| has(edge.as_str()));
        self.cells.extend(edges.map(|edge| Cell { row: row.clone(), edge: edge.clone() }));
        self.rows.push(row);
    }

    /// All cells, a quarter of them drawn by the seed, or those whose names hold the choice.
    pub(crate) fn choose(&self, choice: &str, seed: u64) -> Vec<Cell> {
        match choice {
            "all" => self.cells.clone(),
            "quarter" => {
                let mut drawn: Vec<(u64, &Cell)> =
                    self.cells.iter().enumerate().map(|(n, cell)| (mixed(seed, n as u64), cell)).collect();
                drawn.sort_by_key(|(rank, _)| *rank);
                drawn.into_iter().take(self.cells.len().div_ceil(4)).map(|(_, cell)| cell.clone()).collect()
            }
            part => self.cells.iter().filter(|cell| cell.name().contains(part)).cloned().collect(),
        }
    }
}

/// A number without order, the same for the same two (splitmix64).
fn mixed(seed: u64, n: u64) -> u64 {
    let mut z = (seed ^ n.rotate_left(32)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn every_listed_point_is_a_cell_and_so_is_a_lost_answer_of_every_step_that_calls() {
    let listed = super::points();
    let matrix = Matrix::of(&listed);
    let first = |edge: &str, step: &str| {
        matrix.cells.iter().any(|cell| cell.row.pass == 1 && cell.row.step == step && cell.edge == edge)
    };
    for point in listed["points"].as_array().unwrap() {
        let (step, edge) = (point["step"].as_str().unwrap(), point["edge"].as_str().unwrap());
        assert!(first(edge, step), "{point}");
        assert!(edge != REQUEST_SENT || first(ANSWER_LOST, step), "{point}");
    }
    let names: std::collections::BTreeSet<String> = matrix.cells.iter().map(Cell::name).collect();
    assert_eq!(names.len(), matrix.cells.len(), "two cells of one name share a folder");
    let quarter = matrix.choose("quarter", 7);
    assert_eq!(quarter.len(), matrix.cells.len().div_ceil(4));
    assert_eq!(quarter, matrix.choose("quarter", 7));
    assert_ne!(quarter, matrix.choose("quarter", 8));
}
