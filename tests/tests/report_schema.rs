//! What `report --json` prints is what `docs/report.schema.json` promises to scripts, and nothing that it is silent of.

use std::path::Path;

use sandscope_tests::{guest, output, stderr, stdout};
use serde_json::{Map, Value};

/// The part of JSON Schema that our schema is written in.
struct Schema(Value);

impl Schema {
    fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/report.schema.json");
        Self(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
    }

    /// Says where a document breaks the schema.
    fn check(&self, schema: &Value, document: &Value, place: &str) -> Result<(), String> {
        let schema = schema.as_object().ok_or("a schema is an object")?;
        for (keyword, rule) in schema {
            let keeps = match keyword.as_str() {
                "$schema" | "title" | "description" | "$defs" | "required" => Ok(()),
                "$ref" => self.check(self.definition(rule), document, place),
                "anyOf" => {
                    let any = rule.as_array().unwrap().iter();
                    let tried: Vec<_> = any.map(|one| self.check(one, document, place)).collect();
                    if tried.iter().any(Result::is_ok) { Ok(()) } else { Err(format!("{place}: {tried:?}")) }
                }
                "type" => is(document, rule, place),
                "enum" => {
                    let known = document.is_null() || rule.as_array().unwrap().contains(document);
                    known.then_some(()).ok_or_else(|| format!("{place}: {document} is none of {rule}"))
                }
                "minimum" => {
                    let is_less = document.as_f64() < rule.as_f64() && !document.is_null();
                    (!is_less).then_some(()).ok_or_else(|| format!("{place}: {document} is below {rule}"))
                }
                "items" => {
                    let mut items = document.as_array().into_iter().flatten().enumerate();
                    items.try_for_each(|(nth, item)| self.check(rule, item, &format!("{place}[{nth}]")))
                }
                "properties" => {
                    self.properties(rule.as_object().unwrap(), &schema["required"], document, place)
                }
                other => Err(format!("{other} is a keyword that this test does not know")),
            };
            keeps?;
        }
        Ok(())
    }

    fn properties(
        &self,
        rules: &Map<String, Value>,
        required: &Value,
        document: &Value,
        place: &str,
    ) -> Result<(), String> {
        let Some(fields) = document.as_object() else { return Ok(()) };
        for name in required.as_array().unwrap() {
            if !fields.contains_key(name.as_str().unwrap()) {
                return Err(format!("{place} has no {name}"));
            }
        }
        for (name, value) in fields {
            let place = format!("{place}.{name}");
            let rule = rules.get(name).ok_or_else(|| format!("{place} is not in the schema"))?;
            self.check(rule, value, &place)?;
        }
        Ok(())
    }

    fn definition(&self, reference: &Value) -> &Value {
        let pointer = reference.as_str().unwrap().trim_start_matches('#');
        self.0.pointer(pointer).unwrap_or_else(|| panic!("no {pointer}"))
    }
}

fn is(document: &Value, types: &Value, place: &str) -> Result<(), String> {
    let is_one = |ty: &Value| match ty.as_str().unwrap() {
        "null" => document.is_null(),
        "string" => document.is_string(),
        "boolean" => document.is_boolean(),
        "integer" => document.is_u64() || document.is_i64(),
        "number" => document.is_number(),
        "array" => document.is_array(),
        "object" => document.is_object(),
        other => panic!("{other} is no type"),
    };
    let any = types.as_array().map_or_else(|| is_one(types), |types| types.iter().any(is_one));
    any.then_some(()).ok_or_else(|| format!("{place}: {document} is no {types}"))
}

#[track_caller]
fn report(flags: &[&str], guest: &Path, args: &[&str]) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let fixed = ["run", "--record", path.to_str().unwrap()];
    let guest = [guest.to_str().unwrap()];
    let all: Vec<&str> = [&fixed[..], flags, &guest, args].concat();
    output(&all);
    let output = output(&["report", "--json", path.to_str().unwrap()]);
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_str(&stdout(&output)).unwrap()
}

/// Reports of guests that trap with and without variables, allocate, and end well keep the schema.
#[test]
fn reports_keep_their_schema() {
    let schema = Schema::read();
    for (flags, name, args) in [
        (&["--alloc"][..], "crash", &["structs"][..]),
        (&["--memory", "none"], "crash", &["recurse"]),
        (&[], "crash", &["ok"]),
        (&[], "parallel", &[]),
    ] {
        let report = report(flags, &guest(name), args);
        schema.check(&schema.0, &report, "report").unwrap_or_else(|why| panic!("{name} {args:?}: {why}"));
    }
}

/// The check sees what it is for.
#[test]
fn breaches_are_seen() {
    let schema = Schema::read();
    let whole = report(&[], &guest("crash"), &["div0"]);
    let mut missing = whole.clone();
    missing["traps"][0].as_object_mut().unwrap().remove("code");
    let mut wrong = whole.clone();
    wrong["traps"][0]["frames"][0]["line"] = "7".into();
    let mut more = whole;
    more["surprise"] = 1.into();
    for (broken, why) in [(missing, "has no \"code\""), (wrong, ".line"), (more, "report.surprise")] {
        let found = schema.check(&schema.0, &broken, "report").unwrap_err();
        assert!(found.contains(why), "{found}");
    }
}
