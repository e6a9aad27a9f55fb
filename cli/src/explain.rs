//! `--explain-config`: every setting of a command, its value, and where it came from.

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

/// Prints `name = value  (source)` for each argument of the chosen subcommand.
pub fn print(command: &Command, matches: &ArgMatches) {
    let Some((name, matches)) = matches.subcommand() else { return };
    let Some(command) = command.find_subcommand(name) else { return };
    if command.has_subcommands() {
        return print(command, matches);
    }
    for arg in command.get_arguments() {
        let id = arg.get_id().as_str();
        if matches!(id, "help" | "explain_config") {
            continue;
        }
        let source = match matches.value_source(id) {
            Some(ValueSource::CommandLine) => "flag".to_owned(),
            Some(ValueSource::EnvVariable) => {
                format!(
                    "environment {}",
                    arg.get_env().map_or_else(String::new, |e| e.to_string_lossy().into())
                )
            }
            Some(ValueSource::DefaultValue) => "default".to_owned(),
            _ => "unset".to_owned(),
        };
        let value: Vec<String> = matches.get_raw(id).map_or_else(Vec::new, |values| {
            values.map(|value| value.to_string_lossy().into_owned()).collect()
        });
        println!("{id} = {}  ({source})", if value.is_empty() { "-".to_owned() } else { value.join(" ") });
    }
}
