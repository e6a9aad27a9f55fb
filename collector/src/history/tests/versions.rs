//! What earlier releases wrote is read.

use std::path::Path;

use super::{Bench, Kind, TEN, tables};

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Whatever changes, the histories of earlier releases are asked with the columns that they have. `BLESS=1`
/// writes that of the present version if it is not there; it never changes one that is.
#[tokio::test]
async fn histories_of_every_version_are_read() {
    let versions = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let present = versions.join("history-v1");
    if std::env::var_os("BLESS").is_some() && !present.exists() {
        let mut bench = Bench::new();
        bench.append(Kind::Traces, TEN, &tables::trapped()).await;
        bench.append(Kind::Metrics, TEN, &tables::measured()).await;
        bench.append(Kind::Logs, TEN, &tables::written()).await;
        bench.append(Kind::Profiles, TEN, &tables::sampled()).await;
        let mut consumer = bench.start().await;
        bench.catch_up(&mut consumer).await;
        copy(bench.directory.path(), &present);
    }
    let kept = std::fs::read_dir(versions).unwrap().map(Result::unwrap);
    for version in kept.filter(|version| version.file_name().to_string_lossy().starts_with("history-")) {
        let directory = tempfile::tempdir().unwrap();
        copy(&version.path(), directory.path());
        let mut bench = Bench::over(directory);
        bench.start().await;
        for (table, rows) in
            [("spans", 1), ("events", 1), ("metrics", 3), ("logs", 1), ("samples", 2), ("stacks", 1)]
        {
            assert_eq!(
                bench.ask(&format!("SELECT count(*) FROM {table}")).await,
                [rows.to_string()],
                "{table}"
            );
        }
        let trap = "SELECT region, workload, name, attributes['depth'] FROM events";
        assert_eq!(bench.ask(trap).await, ["eu-1|session|unreachable|4"]);
        assert_eq!(bench.ask("SELECT sum(value) FROM samples JOIN stacks USING (stack_id)").await, ["30"]);
    }
}
