//! A table for the query engine: the files of one moment, less those that cannot matter to a query.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, StringViewArray, TimestampNanosecondArray};
use arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::physical_plan::ExecutionPlan;

use super::files::{File, List};
use super::sql::store_url;
use super::store::Store;
use super::table::Table;

/// Files of one table.
#[derive(Debug)]
pub(super) struct Scan {
    pub table: Table,
    pub files: List,
    pub store: Store,
}

impl Scan {
    /// The files that may have rows which the filters let through.
    fn relevant(&self, session: &dyn Session, filters: &[Expr]) -> Result<Vec<Arc<File>>> {
        let Some(filter) = conjunction(filters.iter().cloned()) else { return Ok(self.files.to_vec()) };
        let schema = DFSchema::try_from(self.schema())?;
        let filter = session.create_physical_expr(filter, &schema)?;
        let wanted = PruningPredicateBuilder::new().with_file_schema(self.schema()).try_build(filter)?;
        let wanted = wanted.prune(&Known(&self.files))?;
        let files = self.files.iter().zip(wanted).filter(|(_, wanted)| *wanted);
        Ok(files.map(|(file, _)| file.clone()).collect())
    }
}

#[tonic::async_trait]
impl TableProvider for Scan {
    fn schema(&self) -> SchemaRef {
        self.table.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut files = self.relevant(session, filters)?;
        // Large ones first, and dealt out in turn, so that threads end together.
        files.sort_by_key(|file| std::cmp::Reverse(file.meta.size));
        let threads = session.config().target_partitions().clamp(1, files.len().max(1));
        let mut groups = vec![Vec::new(); threads];
        for (at, file) in files.into_iter().enumerate() {
            // The scan holds the file, so that it stays in the store.
            groups[at % threads].push(PartitionedFile::new_from_meta(file.meta.clone()).with_extension(file));
        }
        let cache = session.runtime_env().cache_manager.get_file_metadata_cache();
        let reader = CachedParquetFileReaderFactory::new(self.store.objects.clone(), cache);
        let source = ParquetSource::new(self.schema()).with_parquet_file_reader_factory(Arc::new(reader));
        let scan = FileScanConfigBuilder::new(store_url()?, Arc::new(source))
            .with_file_groups(groups.into_iter().map(FileGroup::new).collect())
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(scan))
    }
}

/// What names of files say of the rows inside.
struct Known<'a>(&'a [Arc<File>]);

impl Known<'_> {
    fn values(&self, column: &Column, bound: fn((i64, i64)) -> i64) -> Option<ArrayRef> {
        let times = |of: fn(&File) -> (i64, i64)| -> ArrayRef {
            let times = self.0.iter().map(|file| Some(bound(of(file))));
            Arc::new(times.collect::<TimestampNanosecondArray>().with_timezone("UTC"))
        };
        match column.name() {
            "region" => {
                // Unknown regions are null, which no comparison lets through; null here is "cannot be told".
                let regions =
                    self.0.iter().map(|file| file.name.partition.region().filter(|text| !text.is_empty()));
                Some(Arc::new(regions.collect::<StringViewArray>()))
            }
            "received" => Some(times(|file| {
                let (start, end) = file.name.partition.received();
                let nanos = |nanos| i64::try_from(nanos).unwrap_or(i64::MAX);
                (nanos(start), nanos(end - 1))
            })),
            "time" => Some(times(|file| file.name.times)),
            _ => None,
        }
    }
}

impl PruningStatistics for Known<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.values(column, |(least, _)| least)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.values(column, |(_, greatest)| greatest)
    }

    fn num_containers(&self) -> usize {
        self.0.len()
    }

    fn null_counts(&self, _: &Column) -> Option<ArrayRef> {
        None
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        None
    }

    fn contained(&self, _: &Column, _: &std::collections::HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}
