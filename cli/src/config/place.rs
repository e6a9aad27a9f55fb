//! Where in a TOML file something is: line, column and field.

/// Line and column (from 1, in characters) with the field there and what is wrong with it.
pub fn of_error(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().trim().replace('\n', ", ");
    match error.span() {
        Some(span) => format!("{}: {message}", at(text, span.start)),
        None => format!(" {message}"),
    }
}

/// The same of the first value that holds some text.
pub fn of_value(text: &str, wanted: &str) -> Option<String> {
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let code = line.split('#').next().unwrap_or_default();
        if let Some(column) = code.find(wanted) {
            return Some(at(text, start + column));
        }
        start += line.len();
    }
    None
}

fn at(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let (line, column) = (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1);
    let this = text[line_start..].lines().next().unwrap_or_default();
    let key = this.split_once('=').map(|(key, _)| key.trim());
    // The last table that begins before it.
    let table = text[..line_start].lines().rev().find_map(|line| line.trim().strip_prefix('['));
    let table = table.and_then(|table| table.split(']').next()).map(|table| table.trim_matches('['));
    let field = match (table, key) {
        (Some(table), Some(key)) => format!("{table}.{key}"),
        (None, Some(key)) => key.to_owned(),
        (_, None) => this.trim().trim_matches(['[', ']']).to_owned(),
    };
    format!("{line}:{column}, {field}")
}
