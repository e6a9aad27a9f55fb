//! Questions in SQL: an engine with bounds on memory, time and how much is asked at once, that can change nothing.

use std::sync::Arc;

use datafusion::catalog::view::ViewTable;
use datafusion::common::DFSchema;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::execution::{FunctionRegistry as _, SendableRecordBatchStream};
use datafusion::functions::core::get_field;
use datafusion::functions_aggregate::expr_fn::first_value;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr, RawFieldAccessExpr};
use datafusion::logical_expr::{Expr, GetFieldAccess, lit};
use datafusion::prelude::{SQLOptions, SessionConfig, SessionContext, col};
use datafusion::sql::sqlparser::ast::BinaryOperator;

use super::bounded::{CONCAT, MAX_SQL, OPERATOR, UNBOUNDED};
use super::files::Files;
use super::scan::Scan;
use super::store::Store;
use super::table::Table;

/// The schema that the tables are in, for `information_schema`.
const SCHEMA: &str = "history";

/// The store's address inside the engine.
pub(super) fn store_url() -> Result<ObjectStoreUrl> {
    ObjectStoreUrl::parse("history://store")
}

/// An environment for queries or merges, with so many bytes for both what they hold and what they sort.
pub(super) fn environment(store: &Store, memory: usize) -> Result<Arc<RuntimeEnv>> {
    let env = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(GreedyMemoryPool::new(memory)))
        // What does not fit into memory fails, rather than filling the disk that the log needs.
        .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled))
        .build_arc()?;
    env.register_object_store(store_url()?.as_ref(), store.objects.clone());
    Ok(env)
}

/// What answers queries.
#[derive(Debug)]
pub(super) struct Engine {
    pub store: Store,
    pub files: Arc<Files>,
    pub env: Arc<RuntimeEnv>,
    pub threads: usize,
}

impl Engine {
    /// Starts a query over the files of this moment. Dropping the answer ends it.
    pub(super) async fn query(&self, sql: &str) -> Result<SendableRecordBatchStream> {
        if sql.len() > MAX_SQL {
            return Err(DataFusionError::Plan(format!("a query has at most {} KiB", MAX_SQL >> 10)));
        }
        let mut config = SessionConfig::new()
            .with_information_schema(true)
            .with_default_catalog_and_schema("sandscope", SCHEMA)
            .with_target_partitions(self.threads);
        let options = config.options_mut();
        // They can double a text as often as they like.
        options.execution.enable_recursive_ctes = false;
        options.execution.parquet.pushdown_filters = true;
        let mut state = SessionStateBuilder::new_with_default_features()
            .with_config(config)
            .with_runtime_env(self.env.clone())
            .build();
        state.register_expr_planner(Arc::new(Syntax))?;
        let context = SessionContext::new_with_state(state);
        for function in UNBOUNDED {
            context.deregister_udf(function);
        }
        context.register_udf(CONCAT.as_ref().clone());
        for table in Table::ALL {
            let scan = Arc::new(Scan { table, files: self.files.of(table), store: self.store.clone() });
            if table == Table::Stacks {
                // Each hour has its own copy of a stack; a join must find one.
                let stacks = context.read_table(scan)?;
                let frames = first_value(col("frames"), vec![]).alias("frames");
                let stacks = stacks.aggregate(vec![col("stack_id")], vec![frames])?;
                let view = ViewTable::new(stacks.into_unoptimized_plan(), None);
                context.register_table(table.name(), Arc::new(view))?;
            } else {
                context.register_table(table.name(), scan)?;
            }
        }
        let read_only =
            SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        context.sql_with_options(sql, read_only).await?.execute_stream().await
    }
}

/// `attributes['key']`, fields of structs in the same way, and `a || b`.
#[derive(Debug)]
struct Syntax;

impl ExprPlanner for Syntax {
    fn plan_binary_op(&self, binary: RawBinaryExpr, _: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        Ok(match binary.op {
            BinaryOperator::StringConcat => {
                let operands = vec![binary.left, binary.right];
                PlannerResult::Planned(Expr::ScalarFunction(ScalarFunction::new_udf(
                    OPERATOR.clone(),
                    operands,
                )))
            }
            _ => PlannerResult::Original(binary),
        })
    }

    fn plan_field_access(
        &self,
        access: RawFieldAccessExpr,
        _: &DFSchema,
    ) -> Result<PlannerResult<RawFieldAccessExpr>> {
        Ok(match access.field_access {
            GetFieldAccess::NamedStructField { name } => {
                let arguments = vec![access.expr, lit(name)];
                PlannerResult::Planned(Expr::ScalarFunction(ScalarFunction::new_udf(get_field(), arguments)))
            }
            field_access => PlannerResult::Original(RawFieldAccessExpr { field_access, ..access }),
        })
    }
}

/// The first sentence of what the engine says.
pub(super) fn sentence(error: &DataFusionError) -> String {
    let text = error.strip_backtrace();
    text.lines().next().unwrap_or_default().trim().to_owned()
}
