//! Reading what `hivectl --json` prints: rows of lists, and the same node as others see it.

use crate::{node::Node, process::PATIENCE};
use serde_json::Value;

/// The first row of a list whose `key` is `value`.
pub fn row<'a>(list: &'a Value, key: &str, value: &str) -> Option<&'a Value> {
    list.as_array()?.iter().find(|row| row[key] == value)
}

/// The values of `key` in all rows of a list, sorted.
pub fn column(list: &Value, key: &str) -> Vec<String> {
    let rows = list.as_array().into_iter().flatten();
    let mut values: Vec<String> = rows.filter_map(|row| row[key].as_str().map(str::to_owned)).collect();
    values.sort();
    values
}

/// Waits until `viewer`'s table has the node with this id, and its row pleases.
///
/// # Panics
/// Once [`PATIENCE`] has passed, saying `what` did not happen.
pub fn wait_for_row(viewer: &Node, what: &str, id: &str, pleases: impl Fn(&Value) -> bool) {
    viewer.wait_for_json(what, PATIENCE, &["nodes"], |nodes| row(nodes, "peer_id", id).is_some_and(&pleases));
}

/// Waits until every node sees every other as online.
///
/// # Panics
/// Once [`PATIENCE`] has passed for one of them.
pub fn wait_until_all_see_all(nodes: &[&Node]) {
    nodes.iter().for_each(|node| node.wait_until_sees(nodes));
}
