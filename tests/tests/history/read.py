"""What other engines read in the history's files: ENGINE (duckdb or chdb), DIRECTORY. A JSON array per table."""

import glob
import json
import sys

engine, directory = sys.argv[1:]

TABLES = {
    "spans": "count(*), sum(duration_s), count(DISTINCT trace_id)",
    "metrics": "count(*), sum(value), sum(count)",
    "logs": "count(*), count(DISTINCT body), count(severity)",
    "samples": "count(*), sum(value), count(DISTINCT stack_id)",
    "stacks": "count(DISTINCT stack_id), 0, 0",
    "events": "count(*), count(DISTINCT name), count(duration_s)",
}

if engine == "duckdb":
    import duckdb

    def ask(table, columns):
        files = f"{directory}/{table}/**/*.parquet"
        return duckdb.sql(f"SELECT {columns} FROM read_parquet('{files}')").fetchall()[0]

    # What partitions, nests and is a moment is what it should be.
    files = f"{directory}/spans/**/*.parquet"
    row = duckdb.sql(f"SELECT region, typeof(time)[:11], typeof(attributes) FROM read_parquet('{files}') LIMIT 1")
    assert row.fetchall() == [("eu.west/1", "TIMESTAMPTZ", "MAP(VARCHAR, VARCHAR)")], row
    frames = duckdb.sql(
        f"SELECT count(*) FROM (SELECT unnest(frames) AS f FROM read_parquet('{directory}/stacks/**/*.parquet'))"
        " WHERE f.\"offset\" IS NOT NULL"
    )
    assert frames.fetchall()[0][0] > 0, frames
else:
    import chdb

    def ask(table, columns):
        files = f"{directory}/{table}/**/*.parquet"
        answer = chdb.query(f"SELECT {columns} FROM file('{files}', Parquet)", "JSONCompactEachRow")
        return json.loads(str(answer))


for table, columns in TABLES.items():
    # Guests need not have sent all signals.
    if not glob.glob(f"{directory}/{table}/**/*.parquet", recursive=True):
        continue
    print(json.dumps([table, *[float(value or 0) for value in ask(table, columns)]]))
