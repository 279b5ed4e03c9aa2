//! `logs`: the agent's recent log lines, and those to come.

use hive_protocol::{LogLevel, LogLine};

use crate::{
    app::App,
    args::node_verb,
    error::Result,
    format::clean,
    style::{Style, paint},
};

/// Lines shown unless told otherwise.
const LINES: u32 = 200;

node_verb! {
    /// Show the last lines of a node's log.
    #[argh(
        subcommand,
        name = "logs",
        help_triggers("-h", "--help", "help"),
        example = "{command_name} --node shed\n{command_name} --follow --lines 20",
        note = "The agent keeps its last 2000 lines in memory; what it keeps is what its --log filter lets through. With \
                --json every line is a document of its own."
    )]
    pub struct Logs {
        /// go on with new lines until interrupted
        #[argh(switch)]
        pub follow: bool,
        /// how many lines (default: 200)
        #[argh(option, default = "LINES")]
        pub lines: u32,
    }
}

/// Prints the lines as they come.
pub async fn run(app: &App, args: &Logs) -> Result<()> {
    let mut client = app.connect(&args.target()).await?;
    let colour = app.out.colour;
    client
        .logs(args.lines, args.follow, |lines, missed| {
            if missed > 0 {
                app.out.warn(&format!("{missed} lines came faster than they could be read, and are lost"));
            }
            if app.out.json {
                return lines.iter().try_for_each(|line| app.out.show(line, String::new));
            }
            app.out.raw(&lines.iter().map(|line| text(line, colour)).collect::<String>())
        })
        .await
}

fn text(line: &LogLine, colour: bool) -> String {
    let time = humantime::format_rfc3339_seconds(line.time.to_system_time());
    let (level, style) = match line.level {
        LogLevel::Error => ("ERROR", Style::Bad),
        LogLevel::Warn => ("WARN ", Style::Fair),
        LogLevel::Info => ("INFO ", Style::Good),
        LogLevel::Debug => ("DEBUG", Style::Dim),
        LogLevel::Trace => ("TRACE", Style::Dim),
    };
    format!("{time} {} {}\n", paint(level, style, colour), clean(&line.text))
}

#[cfg(test)]
mod tests {
    use hive_protocol::Timestamp;

    use super::*;

    #[test]
    fn a_line_stays_a_line() {
        let line = LogLine { time: Timestamp(0), level: LogLevel::Warn, text: "a\nb\u{1b}[2J".into() };
        assert_eq!(text(&line, false), "1970-01-01T00:00:00Z WARN  a\u{fffd}b\u{fffd}[2J\n");
    }
}
