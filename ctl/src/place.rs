//! Where a node's words apply. A node writes its hints as if they were read on its own machine; whoever reads them
//! elsewhere has to name that node in every command, or acts on another one.

use multiaddr::Multiaddr;

use crate::error::Error;

/// What may stand behind a command that is meant for another node than the one that speaks.
const ELSEWHERE: [&str; 3] = [" there", " on ", " where "];

/// How the node that speaks was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Not at all: it is the local agent.
    Here,
    /// By `--node`.
    Node(String),
    /// By `--direct`.
    Direct(Multiaddr),
}

impl Place {
    /// A node's hint, with the node named in each of its commands: those are in backticks. One that is followed by a
    /// word for another place stays as it is.
    pub fn complete(&self, hint: &str) -> String {
        let parts: Vec<&str> = hint.split('`').collect();
        let at = |index: usize, part: &str| {
            let elsewhere = |after: &&str| ELSEWHERE.iter().any(|word| after.starts_with(word));
            let words = part.strip_prefix("hivectl ").filter(|_| index % 2 == 1);
            match (words, parts.get(index + 1).filter(|after| !elsewhere(after))) {
                (Some(words), Some(_)) => self.command(words),
                _ => part.to_owned(),
            }
        };
        parts.iter().enumerate().map(|(index, part)| at(index, part)).collect::<Vec<_>>().join("`")
    }

    /// The same for an error.
    pub fn complete_error(&self, error: Error) -> Error {
        Error { hint: error.hint.map(|hint| self.complete(&hint)), ..error }
    }

    /// The node acted on stands last, unless the command names another node: then it stands behind the verb.
    fn command(&self, words: &str) -> String {
        match self {
            Self::Here => format!("hivectl {words}"),
            Self::Direct(address) => format!("hivectl --direct {address} {words}"),
            Self::Node(node) => match words.split_once(' ') {
                Some((verb, rest)) if rest.contains("--node") => format!("hivectl {verb} --node {node} {rest}"),
                _ => format!("hivectl {words} --node {node}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_gpu(hint: &str) -> String {
        Place::Node("gpu".into()).complete(hint)
    }

    #[test]
    fn every_command_of_a_hint_names_the_node_it_is_for() {
        assert_eq!(
            at_gpu("remove it first with `hivectl proxy rm 5`"),
            "remove it first with `hivectl proxy rm 5 --node gpu`"
        );
        assert_eq!(
            at_gpu("let it in with `hivectl networks unban --node 12D3`, or see `hivectl nodes`"),
            "let it in with `hivectl networks --node gpu unban --node 12D3`, or see `hivectl nodes --node gpu`"
        );
        let address: Multiaddr = "/ip4/192.0.2.7/tcp/4180".parse().unwrap();
        let direct = Place::Direct(address).complete("`hivectl nodes` lists them");
        assert_eq!(direct, "`hivectl --direct /ip4/192.0.2.7/tcp/4180 nodes` lists them");
    }

    #[test]
    fn what_is_meant_for_another_place_stays_as_it_is() {
        for hint in [
            "see `hivectl networks` there",
            "run `hivectl id --base64` on another node",
            "free `the port`",
            "odd ` hivectl x",
        ] {
            assert_eq!(at_gpu(hint), hint);
        }
        assert_eq!(Place::Here.complete("see `hivectl nodes`"), "see `hivectl nodes`");
    }
}
