"""Answers the queries that come on standard input, one a line, with the milliseconds that each took."""

import sys
import time

import duckdb

connection = duckdb.connect()
connection.sql(f"SET threads = {sys.argv[2]}")
connection.sql(
    f"CREATE VIEW metrics AS SELECT * FROM read_parquet('{sys.argv[1]}/metrics/*/*/*.parquet', hive_partitioning = true)"
)
connection.sql("SET TimeZone = 'UTC'")
print("ready", flush=True)
for line in sys.stdin:
    started = time.perf_counter()
    rows = connection.sql(line).fetchall()
    print((time.perf_counter() - started) * 1e3, len(rows), flush=True)
