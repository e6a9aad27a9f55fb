//! The filter line: which rows it keeps. What the rows look like is the table's business.

use crate::data::Row;

/// Words that a row has to match, all of them.
///
/// `image` matches anywhere in region, workload, version or service; `region:eu-*` only there and as a
/// whole, with `*` for any text; a leading `-` keeps the rows that do not match. Case does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    field: Option<Field>,
    /// Lowercase; may hold `*`.
    pattern: String,
    negated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Region,
    Workload,
    Version,
    Service,
}

impl Filter {
    /// Reads a filter line. Every text is one; a field of another name is taken as plain text.
    pub fn parse(text: &str) -> Self {
        let terms = text.split_whitespace().filter_map(|word| {
            let (negated, word) = word.strip_prefix('-').map_or((false, word), |rest| (true, rest));
            let (field, pattern) = match word.split_once(':') {
                Some(("region", rest)) => (Some(Field::Region), rest),
                Some(("workload", rest)) => (Some(Field::Workload), rest),
                Some(("version", rest)) => (Some(Field::Version), rest),
                Some(("service", rest)) => (Some(Field::Service), rest),
                _ => (None, word),
            };
            (!pattern.is_empty()).then(|| Term { field, pattern: pattern.to_lowercase(), negated })
        });
        Self { terms: terms.collect() }
    }

    /// Whether the row stays.
    pub fn keeps(&self, row: &Row) -> bool {
        self.terms.iter().all(|term| term.matches(row) != term.negated)
    }
}

impl Term {
    fn matches(&self, row: &Row) -> bool {
        let text = |field| match field {
            Field::Region => row.region.as_str(),
            Field::Workload => row.workload.as_str(),
            Field::Version => row.version.as_str(),
            Field::Service => row.service.as_str(),
        };
        match self.field {
            Some(field) => glob(&self.pattern, &text(field).to_lowercase()),
            None => {
                let anywhere = format!("*{}*", self.pattern);
                [Field::Region, Field::Workload, Field::Version, Field::Service]
                    .into_iter()
                    .any(|field| glob(&anywhere, &text(field).to_lowercase()))
            }
        }
    }
}

/// Whether the whole text matches a pattern in which `*` stands for any text, in linear space and without
/// backtracking beyond the last `*`.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let Some(last) = pattern.contains('*').then(|| parts.next_back()).flatten() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::RowKey;

    fn row(region: &str, workload: &str) -> Row {
        let key = RowKey {
            region: region.into(),
            workload: workload.into(),
            version: "1.2.0".into(),
            service: "edge".into(),
        };
        Row::new(key)
    }

    #[test]
    fn filters_keep_what_they_say() {
        let all = [row("eu-west", "image"), row("eu-north", "gc"), row("us-east", "image-proxy")];
        for (text, kept) in [
            ("", vec![0, 1, 2]),
            ("image", vec![0, 2]),
            ("IMAGE", vec![0, 2]),
            ("workload:image", vec![0]),
            ("workload:image*", vec![0, 2]),
            ("region:eu-* image", vec![0]),
            ("region:*st", vec![0, 2]),
            ("-region:eu-*", vec![2]),
            ("region:", vec![0, 1, 2]),
            ("version:1.*", vec![0, 1, 2]),
            ("service:e*g*", vec![0, 1, 2]),
            ("color:red", vec![]),
        ] {
            let filter = Filter::parse(text);
            let got: Vec<usize> = (0..all.len()).filter(|&i| filter.keeps(&all[i])).collect();
            assert_eq!(got, kept, "{text:?}");
        }
    }

    #[test]
    fn globs_match_whole_texts() {
        for (pattern, text, matches) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("*b*b", "ab", false),
            ("a**c", "abc", true),
        ] {
            assert_eq!(glob(pattern, text), matches, "{pattern} {text}");
        }
    }
}
