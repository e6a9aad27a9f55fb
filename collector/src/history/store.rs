//! Where files are: a directory or a bucket. Files appear whole, and are durable when writing returns.

use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::{SortColumn, lexsort_to_indices, take_record_batch};
use arrow::error::ArrowError;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _, PutPayload};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use tokio_stream::StreamExt as _;

use super::Place;
use super::error::{HistoryError, StepError};
use super::files::File;
use super::name::Name;
use super::table::Table;
use crate::log::Position;

/// Rows of a row group: few enough that a question for one workload skips most of a file.
const ROW_GROUP: usize = 128 << 10;
/// Folder of how far each writer got.
const STATE: &str = "_state";

/// A store.
#[derive(Clone, Debug)]
pub(super) struct Store {
    pub objects: Arc<dyn ObjectStore>,
    /// Set if it is a directory: what is written there has to be synced by hand.
    directory: Option<PathBuf>,
}

impl Store {
    /// Opens a store; a directory is made. A bucket is not asked yet.
    pub(super) fn open(place: &Place) -> Result<Self, HistoryError> {
        match place {
            Place::Directory(path) => {
                let error = |source| HistoryError::Directory { path: path.clone(), source };
                std::fs::create_dir_all(path).map_err(error)?;
                let directory = path.canonicalize().map_err(error)?;
                let objects = LocalFileSystem::new_with_prefix(&directory)
                    .map_err(|source| error(std::io::Error::other(source)))?
                    .with_automatic_cleanup(true);
                Ok(Self { objects: Arc::new(objects), directory: Some(directory) })
            }
            Place::Bucket { bucket, prefix } => {
                let error = |source| HistoryError::Bucket { url: place.to_string(), source };
                let builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
                let bucket = builder.build().map_err(error)?;
                let prefix = Path::parse(prefix).map_err(|source| error(source.into()))?;
                let objects: Arc<dyn ObjectStore> = if prefix.as_ref().is_empty() {
                    Arc::new(bucket)
                } else {
                    Arc::new(PrefixStore::new(bucket, prefix))
                };
                Ok(Self { objects, directory: None })
            }
        }
    }

    /// All files of the history.
    pub(super) async fn list(&self) -> Result<Vec<File>, StepError> {
        let mut files = Vec::new();
        for table in Table::ALL {
            let folder = Path::from(table.name());
            let mut listed = self.objects.list(Some(&folder));
            while let Some(meta) = listed.try_next().await? {
                files.extend(Name::parse(&meta.location).map(|name| File { name, meta }));
            }
        }
        Ok(files)
    }

    /// Writes rows that are sorted here.
    pub(super) async fn write(&self, name: Name, rows: &RecordBatch) -> Result<File, StepError> {
        let bytes = encode(&sorted(rows, name.table)?)?;
        let path = name.path();
        let size = bytes.len() as u64;
        self.put(&path, bytes).await?;
        Ok(File { name, meta: meta(path, size) })
    }

    /// A file that was written some other way: now it is durable.
    pub(super) async fn settle(&self, name: Name) -> Result<File, StepError> {
        let path = name.path();
        self.sync(&path).await?;
        let size = self.objects.head(&path).await?.size;
        Ok(File { name, meta: meta(path, size) })
    }

    /// Deletes a file; one that is gone is as good.
    pub(super) async fn delete(&self, path: &Path) -> Result<(), StepError> {
        match self.objects.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// How far a writer got.
    pub(super) async fn committed(&self, writer: &str) -> Result<Option<Position>, StepError> {
        let bytes = match self.objects.get(&state(writer)).await {
            Ok(found) => found.bytes().await?,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(std::str::from_utf8(&bytes).ok().and_then(|text| Position::parse(text.trim())))
    }

    /// From now on all files before this position count.
    pub(super) async fn commit(&self, writer: &str, to: Position) -> Result<(), StepError> {
        self.put(&state(writer), to.to_string().into_bytes()).await
    }

    async fn put(&self, path: &Path, bytes: Vec<u8>) -> Result<(), StepError> {
        self.objects.put(path, PutPayload::from(bytes)).await?;
        self.sync(path).await
    }

    /// A file and the folders that it is in.
    async fn sync(&self, path: &Path) -> Result<(), StepError> {
        let Some(directory) = self.directory.clone() else { return Ok(()) };
        let file = directory.join(path.as_ref());
        let synced = tokio::task::spawn_blocking(move || {
            std::fs::File::open(&file)?.sync_all()?;
            let folders = file.ancestors().skip(1).take_while(|folder| folder.starts_with(&directory));
            folders.into_iter().try_for_each(|folder: &FsPath| std::fs::File::open(folder)?.sync_all())
        });
        Ok(synced.await.map_err(std::io::Error::other)??)
    }
}

fn state(writer: &str) -> Path {
    Path::from_iter([STATE, writer])
}

fn meta(location: Path, size: u64) -> ObjectMeta {
    ObjectMeta {
        location,
        last_modified: std::time::SystemTime::now().into(),
        size,
        e_tag: None,
        version: None,
    }
}

fn sorted(rows: &RecordBatch, table: Table) -> Result<RecordBatch, ArrowError> {
    let column = |name: &&str| rows.column_by_name(name).cloned();
    let columns = table.sorted_by().iter().filter_map(column);
    let columns: Vec<_> = columns.map(|values| SortColumn { values, options: None }).collect();
    take_record_batch(rows, &lexsort_to_indices(&columns, None)?)
}

/// How all files are written.
pub(super) fn properties() -> WriterProperties {
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROW_GROUP))
        .build()
}

fn encode(rows: &RecordBatch) -> Result<Vec<u8>, StepError> {
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties()))?;
    writer.write(rows)?;
    Ok(writer.into_inner()?)
}
