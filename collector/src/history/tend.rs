//! Tending the files: small ones become large ones, old ones go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray as _, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::error::ArrowError;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::DataFusionError;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr, expressions};
use datafusion::physical_plan::ExecutionPlan as _;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::prelude::{SessionConfig, SessionContext};
use object_store::buffered::BufWriter;
use parquet::arrow::AsyncArrowWriter;
use tokio_stream::StreamExt as _;

use super::Keep;
use super::error::StepError;
use super::figures::{Figure, Figures};
use super::files::{File, Files};
use super::name::{Name, Partition};
use super::sql::store_url;
use super::store::{Store, properties};
use super::table::Table;

/// Files of the present hour that are merged at once: as many of one level.
const SAME_LEVEL: usize = 16;
/// An hour is over when nothing can come in for it any more but what the log still has.
const OVER: Duration = Duration::from_secs(60);
/// A file of this size is large, in bytes.
const LARGE: u64 = 64 << 20;
/// Most that is merged at once, in bytes and files.
const MOST_BYTES: u64 = 128 << 20;
const MOST_FILES: usize = 64;
/// Rows of a step: every file that is merged has so many in memory.
const STEP: usize = 1024;

/// Who tends the files.
pub(super) struct Tender {
    pub store: Store,
    pub files: Arc<Files>,
    pub figures: Arc<Figures>,
    pub writer: String,
    pub keep: Keep,
    /// With memory of its own, so that no query stops it.
    pub env: Arc<RuntimeEnv>,
}

impl Tender {
    /// Does everything that is to be done at this time, ns since the epoch.
    pub(super) async fn tend(&self, now: u64) -> Result<(), StepError> {
        let old = too_old(&self.files.all(), &self.keep, now);
        self.figures.add(Figure::Removed, old.len() as u64);
        self.files.replace(Vec::new(), &old);
        drop(old);
        for group in groups(&self.files.all(), &self.writer, now) {
            let merged = self.merge(&group).await?;
            self.figures.add(Figure::Files, 1);
            self.figures.add(Figure::Merged, group.len() as u64);
            self.files.replace(vec![merged], &group);
        }
        for file in self.files.forgotten() {
            if let Err(error) = self.store.delete(&file.meta.location).await {
                self.files.remember(file);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Looks for what other collectors wrote to the same store.
    pub(super) async fn learn(&self) -> Result<(), StepError> {
        let (kept, _) =
            super::files::sort_out(self.store.list().await?, &self.writer, crate::log::Position::END);
        self.files.learn(&kept, &self.writer);
        Ok(())
    }

    async fn merge(&self, group: &[Arc<File>]) -> Result<File, StepError> {
        let Some(name) = union(group) else {
            return Err(DataFusionError::Plan("nothing to merge".to_owned()).into());
        };
        let schema = name.table.schema();
        let sorted = name.table.sorted_by().iter();
        let sorted = sorted.map(|name| Ok(PhysicalSortExpr::new_default(expressions::col(name, &schema)?)));
        let ordering = LexOrdering::new(sorted.collect::<Result<Vec<_>, DataFusionError>>()?)
            .ok_or_else(|| DataFusionError::Plan("a table without an order".to_owned()))?;
        let files =
            group.iter().map(|file| FileGroup::new(vec![PartitionedFile::new_from_meta(file.meta.clone())]));
        let scan = FileScanConfigBuilder::new(store_url()?, Arc::new(ParquetSource::new(schema.clone())))
            .with_file_groups(files.collect())
            .with_output_ordering(vec![ordering.clone()])
            .build();
        let merge = SortPreservingMergeExec::new(ordering, DataSourceExec::from_data_source(scan));
        let config = SessionConfig::new().with_batch_size(STEP);
        let context = SessionContext::new_with_config_rt(config, self.env.clone()).task_ctx();
        let mut rows = merge.execute(0, context)?;

        let file = BufWriter::new(self.store.objects.clone(), name.path());
        let mut writer = AsyncArrowWriter::try_new(file, schema, Some(properties()))?;
        let mut last = None;
        while let Some(batch) = rows.next().await {
            let mut batch = batch?;
            if name.table == Table::Stacks {
                batch = once(&batch, &mut last)?;
            }
            writer.write(&batch).await?;
        }
        writer.close().await?;
        self.store.settle(name).await
    }
}

/// Without stacks that are equal to the one before.
fn once(batch: &RecordBatch, last: &mut Option<String>) -> Result<RecordBatch, ArrowError> {
    let Some(ids) = batch.column_by_name("stack_id").and_then(|ids| ids.as_string_view_opt()) else {
        return Ok(batch.clone());
    };
    let mask: BooleanArray = ids
        .iter()
        .map(|id| {
            let is_new = id != last.as_deref();
            if is_new {
                *last = id.map(str::to_owned);
            }
            Some(is_new)
        })
        .collect();
    filter_record_batch(batch, &mask)
}

/// The name of what a run of files becomes.
fn union(group: &[Arc<File>]) -> Option<Name> {
    let mut names = group.iter().map(|file| &file.name);
    let mut out = names.next()?.clone();
    let known = |times: (i64, i64)| (times != (0, 0)).then_some(times);
    for name in names {
        out.from = out.from.min(name.from);
        out.to = out.to.max(name.to);
        out.level = out.level.max(name.level);
        out.times = match (known(out.times), known(name.times)) {
            (Some(a), Some(b)) => (a.0.min(b.0), a.1.max(b.1)),
            (a, b) => a.or(b).unwrap_or_default(),
        };
    }
    out.level = out.level.checked_add(1)?;
    Some(out)
}

/// Files of whole hours that are too old for their table.
fn too_old(files: &[Arc<File>], keep: &Keep, now: u64) -> Vec<Arc<File>> {
    let is_old = |file: &&Arc<File>| {
        let keep = u64::try_from(keep.of(file.name.table).as_nanos()).unwrap_or(u64::MAX);
        file.name.partition.received().1.saturating_add(keep) <= now
    };
    files.iter().filter(is_old).cloned().collect()
}

/// Runs of our files that are to be merged. A run leaves none out between its first and its last: only so does the
/// range of the merged file say what it replaces.
fn groups(files: &[Arc<File>], writer: &str, now: u64) -> Vec<Vec<Arc<File>>> {
    let mut partitions: BTreeMap<(Table, &Partition), Vec<&Arc<File>>> = BTreeMap::new();
    for file in files.iter().filter(|file| file.name.writer == writer && file.name.level < u8::MAX) {
        partitions.entry((file.name.table, &file.name.partition)).or_default().push(file);
    }
    let over = u64::try_from(OVER.as_nanos()).unwrap_or(u64::MAX);
    let mut out = Vec::new();
    for ((_, partition), mut files) in partitions {
        files.sort_unstable_by_key(|file| file.name.from);
        let is_over = partition.received().1.saturating_add(over) <= now;
        let mut run: Vec<Arc<File>> = Vec::new();
        let mut end = |run: &mut Vec<Arc<File>>| {
            let run = std::mem::take(run);
            if run.len() >= if is_over { 2 } else { SAME_LEVEL } {
                out.push(run);
            }
        };
        let mut bytes = 0;
        for file in files {
            let goes_on = run.last().is_none_or(|last| {
                let fits = bytes + file.meta.size <= MOST_BYTES && run.len() < MOST_FILES;
                fits && (is_over || last.name.level == file.name.level)
            });
            if !goes_on {
                end(&mut run);
            }
            if run.is_empty() {
                bytes = 0;
            }
            if file.meta.size >= LARGE {
                end(&mut run);
                continue;
            }
            bytes += file.meta.size;
            run.push(file.clone());
        }
        end(&mut run);
    }
    out
}
