//! `id`: a node's identity, in the forms in which it is handed on.

use hive_protocol::Identity;
use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};
use serde_json::json;

use crate::{
    app::App,
    args::node_verb,
    error::{Error, Result},
    style::{Style, paint},
};

node_verb! {
    /// Show the identity of a node: who it is, and where to dial it.
    #[argh(
        subcommand,
        name = "id",
        help_triggers("-h", "--help", "help"),
        example = "{command_name}\n{command_name} --base64 --node shed"
    )]
    pub struct Id {
        /// print only the line to hand to another node's `hivectl register`
        #[argh(switch)]
        pub base64: bool,
        /// print that line as a QR code
        #[argh(switch)]
        pub qr: bool,
    }
}

/// Shows the identity in the form asked for.
pub async fn run(app: &App, args: &Id) -> Result<()> {
    if args.base64 && args.qr {
        return Err(Error::usage("--base64 and --qr are two forms of the same line: give one of them"));
    }
    let identity = app.connect(&args.target()).await?.identity().await?;
    let base64 = identity.to_string();
    let text = match (args.base64, args.qr) {
        (true, _) => format!("{base64}\n"),
        (_, true) => qr(&base64, app.out.colour)?,
        _ => labelled(&identity, &base64, app.out.colour),
    };
    let value = json!({
        "peer_id": identity.node, "node_name": identity.name, "addresses": identity.addresses, "base64": base64,
    });
    app.out.show(&value, || text)
}

fn labelled(identity: &Identity, base64: &str, colour: bool) -> String {
    let label = |text: &str| paint(&format!("{text:<11}"), Style::Dim, colour).into_owned();
    let mut addresses: Vec<String> = identity.addresses.iter().map(ToString::to_string).collect();
    if addresses.is_empty() {
        addresses.push("none".to_owned());
    }
    let (peer_id, name, addresses) = (identity.node, &identity.name, addresses.join("\n           "));
    let [a, b, c, d] = ["peer_id", "node_name", "addresses", "base64"].map(label);
    format!("{a}{peer_id}\n{b}{name}\n{c}{addresses}\n{d}{base64}\n")
}

/// Two modules a character. On a terminal the colours are given, as readers want dark modules on light ground.
fn qr(text: &str, colour: bool) -> Result<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L)
        .map_err(|e| Error::failed(format!("the identity does not fit into a QR code: {e}")))?;
    let drawn = code.render().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
    let on_black = |line: &str| if colour { format!("\u{1b}[97;40m{line}\u{1b}[0m\n") } else { format!("{line}\n") };
    Ok(drawn.lines().map(on_black).collect())
}

#[cfg(test)]
mod tests {
    use hive_protocol::NodeId;

    use super::*;

    #[test]
    fn the_text_form_aligns_its_labels() {
        let addresses = ["/ip4/192.0.2.7/tcp/4180", "/ip6/2001:db8::7/tcp/4180"].map(|a| a.parse().unwrap()).to_vec();
        let node = NodeId::from_bytes([7; 32]);
        let identity = Identity { node, name: "shed".parse().unwrap(), addresses };
        let expected = format!(
            "peer_id    {node}\nnode_name  shed\naddresses  /ip4/192.0.2.7/tcp/4180\n           \
             /ip6/2001:db8::7/tcp/4180\nbase64     QUJD\n"
        );
        assert_eq!(labelled(&identity, "QUJD", false), expected);
    }

    #[test]
    fn a_qr_code_is_a_block_of_half_blocks() {
        let drawn = qr("https://example.org/", false).unwrap();
        let widths: Vec<usize> = drawn.lines().map(|l| l.chars().count()).collect();
        assert!(widths.len() > 12 && widths.windows(2).all(|w| w[0] == w[1]), "{drawn}");
        assert!(drawn.chars().all(|c| " █▀▄\n".contains(c)), "{drawn}");
        assert!(qr(&"x".repeat(4000), false).is_err());
    }
}
