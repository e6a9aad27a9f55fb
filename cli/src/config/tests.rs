//! The file, its schema and its documentation say the same; what is wrong is said with its place.

use sandscope_collector::access::Role;
use serde::Deserialize;
use serde::de::value::Error;
use serde::de::{Deserializer, Error as _, Visitor};
use serde_json::Value;

use super::history::HistorySection;
use super::*;
use file::CredentialSection;

const SCHEMA: &str = include_str!("../../../docs/collector.schema.json");
const DOCS: &str = include_str!("../../../docs/COLLECTOR.md");

/// Tells which fields a type asks for, and gives none.
struct Fields<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Fields<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("it is no struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        *self.0 = fields;
        Err(Error::custom("seen"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn fields<T: for<'de> Deserialize<'de>>() -> Vec<&'static str> {
    let mut found: &[&str] = &[];
    assert!(T::deserialize(Fields(&mut found)).is_err());
    let mut found = found.to_vec();
    found.sort_unstable();
    found
}

#[test]
fn the_schema_has_what_the_code_reads() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let check = |at: &Value, wanted: Vec<&str>| {
        let mut found: Vec<&str> = at["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        found.sort_unstable();
        assert_eq!((found, &at["additionalProperties"]), (wanted, &Value::Bool(false)));
    };
    let section = |name: &str| &schema["properties"][name];
    check(&schema, fields::<File>());
    check(section("log"), fields::<LogSection>());
    check(section("limits"), fields::<LimitsSection>());
    check(section("history"), fields::<HistorySection>());
    check(section("tls"), fields::<TlsSection>());
    check(section("audit"), fields::<AuditSection>());
    let credential = &section("credential")["items"];
    check(credential, fields::<CredentialSection>());
    let roles = Role::ALL.map(|role| Value::from(role.name()));
    assert_eq!(credential["properties"]["roles"]["items"]["enum"], Value::from(roles.to_vec()));
}

/// Everything that has a default has the same one in the schema.
#[test]
fn the_schema_has_the_defaults() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let audit = File { audit: toml::from_str("file = \"x\"").unwrap(), ..File::default() };
    let resolved = merge(&CollectArgs::default(), audit, None);
    let mut checked = 0;
    for line in &resolved.lines {
        let (name, rest) = line.split_once(" = ").unwrap();
        let Some(value) = rest.strip_suffix("  (default)") else { continue };
        if name == "data" || name == "history.place" {
            continue;
        }
        let at = name.split('.').fold(&schema, |at, part| &at["properties"][part]);
        let text = at["default"].as_str().map_or_else(|| at["default"].to_string(), str::to_owned);
        assert_eq!(text, value, "{name}");
        checked += 1;
    }
    assert!(checked > 15, "{:#?}", resolved.lines);
}

fn resolved(text: &str, args: &CollectArgs) -> Result<Resolved, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("collector.toml");
    std::fs::write(&path, text).unwrap();
    let args = CollectArgs { config: Some(path), ..args.clone() };
    resolve(&args).map_err(|problem| format!("{problem:?}"))
}

/// The example in the documentation is read, and shows every key.
#[test]
fn the_documented_example_is_whole() {
    let example = DOCS.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let resolved = resolved(example, &CollectArgs::default()).unwrap();
    assert_eq!(resolved.config.access.credentials.len(), 2);
    let keys = [
        fields::<File>(),
        fields::<LogSection>(),
        fields::<LimitsSection>(),
        fields::<HistorySection>(),
        fields::<TlsSection>(),
        fields::<AuditSection>(),
        fields::<CredentialSection>(),
    ];
    for key in keys.iter().flatten() {
        let is_shown = [format!("\n{key} ="), format!("\n[{key}]"), format!("\n[[{key}]]")]
            .iter()
            .any(|shown| example.contains(shown));
        assert!(is_shown, "{key} is not in the example");
    }
    let defaults = Config::default();
    assert_eq!(format!("{:?}", resolved.config.limits), format!("{:?}", defaults.limits));
}

/// Flags win over the file, the file over defaults, and each line says which it was.
#[test]
fn flags_win_over_the_file() {
    let args = CollectArgs { log_size: Some(1 << 30), ..CollectArgs::default() };
    let resolved =
        resolved("memory_limit = \"64MiB\"\n[log]\nsize = \"2GiB\"\nage = \"90m\"\n", &args).unwrap();
    assert_eq!((resolved.config.log.max_bytes, resolved.config.memory_limit), (1 << 30, 64 << 20));
    for line in [
        "log.size = 1GiB  (flag)",
        "log.age = 90m  (file)",
        "memory_limit = 64MiB  (file)",
        "log.full = refuse  (default)",
    ] {
        assert!(resolved.lines.iter().any(|found| found == line), "{line}: {:#?}", resolved.lines);
    }
}

#[test]
fn mistakes_are_named_with_their_place() {
    let credential = "[[credential]]\nname = \"x\"\ntoken_file = \"t\"\n";
    for (text, wanted) in [
        ("otlp_listen = \"nowhere\"", "1:15, otlp_listen: "),
        ("[log]\n  size = \"4 parsecs\"", "2:10, log.size: "),
        ("[limits]\nrow = 3", "2:1, limits.row: unknown field `row`"),
        ("memory_limit = -1", "1:16, memory_limit: "),
        ("insecure = 1", "1:12, insecure: "),
        ("data = ", "1:8, data: "),
        (&format!("{credential}roles = [\"reed\"]"), "4:9, credential.roles: "),
        (&format!("{credential}roles = []"), "it needs a name, and a role"),
        (&format!("{credential}roles = [\"read\"]\ncertificate = \"x\""), "either token_file or certificate"),
        (&format!("{credential}roles = [\"read\"]\nregions = []"), "an empty list is of nothing"),
    ] {
        let Err(problem) = resolved(text, &CollectArgs::default()) else { panic!("{text} is taken") };
        assert!(problem.contains(wanted), "{wanted} is not in {problem}");
    }
}

/// A file that settings name and that cannot be used is found where it is named.
#[test]
fn files_that_are_missing_are_named_with_their_place() {
    let text = "[[credential]]\nname = \"x\"\nroles = [\"read\"]\ntoken_file = \"no-such-file\"\n";
    let problem = resolved(text, &CollectArgs::default()).unwrap().check().unwrap_err();
    assert!(format!("{problem:?}").contains("4:15, credential.token_file: "), "{problem:?}");
}
