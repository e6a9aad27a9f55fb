//! Guests that run to their end: WASI commands (core modules of preview 1, components of 0.2 and 0.3), and single
//! functions called by name.

use std::sync::Arc;
use std::time::Instant;

use wasmtime::component::{self, Component, ResourceTable};
use wasmtime::{Engine, ExternType, Instance, InstancePre, Linker, Module, Store, Val, ValType};
use wasmtime_wasi::p1::{self, WasiP1Ctx};
use wasmtime_wasi::{I32Exit, WasiCtx, WasiCtxView, WasiView, p2, p3};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::error::{RunError, one_line};
use super::threads::{SharedGuest, Spawner};
use super::{Grants, Wasi};
use crate::Sandscope;
use crate::call::CallSpan;
use crate::load::{Loaded, Workload};
use crate::trap::TrapReport;
use crate::workload::StoreProbe;

/// How a guest ended.
#[derive(Clone, Debug)]
pub enum Ended {
    /// By itself, with this code.
    Exit(i32),
    /// It returned these values (of a function called by name).
    Returned(Vec<String>),
    /// In a trap, or in a failure of a host call.
    Trapped(Arc<TrapReport>),
}

/// A compiled command, ready to be run any number of times, also at once.
pub struct Command {
    kind: Kind,
    workload: Workload,
    name: String,
}

enum Kind {
    Module { pre: InstancePre<ModuleState>, loaded: Loaded<Module>, shared: Option<SharedGuest> },
    Component { pre: CommandPre, loaded: Loaded<Component> },
}

/// A component that exports `wasi:cli/run`.
enum CommandPre {
    V2(p2::bindings::CommandPre<ComponentState>),
    V3(p3::bindings::CommandPre<ComponentState>),
}

/// Store data of core modules.
pub(super) struct ModuleState {
    wasi: WasiP1Ctx,
    pub(super) probe: StoreProbe,
    /// Set for guests with threads.
    pub(super) spawner: Option<Arc<Spawner>>,
}

/// Store data of components.
pub(super) struct ComponentState {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    table: ResourceTable,
    pub(super) probe: StoreProbe,
}

impl WasiView for ComponentState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for ComponentState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: Default::default() }
    }
}

pub(super) fn probe(workload: &Workload, grants: &Grants) -> StoreProbe {
    let probe = workload.store_probe();
    match grants.max_memory {
        Some(limit) => probe.with_limit(limit),
        None => probe,
    }
}

/// A store of a core module.
pub(super) fn module_store(
    engine: &Engine,
    workload: &Workload,
    grants: &Grants,
    spawner: Option<Arc<Spawner>>,
) -> Result<Store<ModuleState>, RunError> {
    let state =
        ModuleState { wasi: grants.wasi(workload)?.build_p1(), probe: probe(workload, grants), spawner };
    let mut store = Store::new(engine, state);
    store.limiter(|state| &mut state.probe);
    Ok(store)
}

/// A store of a component.
pub(super) fn component_store(
    engine: &Engine,
    workload: &Workload,
    grants: &Grants,
) -> Result<Store<ComponentState>, RunError> {
    let state = ComponentState {
        wasi: grants.wasi(workload)?.build(),
        http: WasiHttpCtx::new(),
        table: ResourceTable::new(),
        probe: probe(workload, grants),
    };
    let mut store = Store::new(engine, state);
    store.limiter(|state| &mut state.probe);
    Ok(store)
}

/// A linker with everything of WASI that this host has. Guests of 0.3 get 0.2 too: their standard libraries may
/// still use it.
pub(super) fn component_linker(
    engine: &Engine,
    wasi: Wasi,
    name: &str,
) -> Result<component::Linker<ComponentState>, RunError> {
    let mut linker = component::Linker::new(engine);
    p2::add_to_linker_async(&mut linker)
        .and_then(|()| wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker))
        .and_then(|()| match wasi {
            Wasi::V2 => Ok(()),
            Wasi::V3 => p3::add_to_linker(&mut linker)
                .and_then(|()| wasmtime_wasi_http::p3::add_to_linker(&mut linker)),
        })
        .map_err(|error| RunError::Link { name: name.to_owned(), message: one_line(&error) })?;
    Ok(linker)
}

impl Command {
    pub(super) fn module(
        scope: &Sandscope,
        engine: &Engine,
        loaded: Loaded<Module>,
        name: &str,
    ) -> Result<Self, RunError> {
        let link =
            |error: &wasmtime::Error| RunError::Link { name: name.to_owned(), message: one_line(error) };
        let started = Instant::now();
        let mut linker: Linker<ModuleState> = Linker::new(engine);
        p1::add_to_linker_async(&mut linker, |state| &mut state.wasi).map_err(|error| link(&error))?;
        let workload = loaded.workload().named("_start");
        let mut store = module_store(engine, &workload, &Grants::default(), None)?;
        let shared = SharedGuest::link(&mut linker, &loaded, &store).map_err(|error| link(&error))?;
        let missing: Vec<String> = loaded
            .imports()
            .filter(|import| linker.get_by_import(&mut store, import).is_none())
            .map(|import| format!("{}::{}", import.module(), import.name()))
            .collect();
        if !missing.is_empty() {
            return Err(RunError::MissingImports { name: name.to_owned(), imports: missing });
        }
        scope.observe_linker(&linker, &mut store);
        let pre = linker.instantiate_pre(&loaded).map_err(|error| link(&error))?;
        workload.was_linked_in(started.elapsed());
        Ok(Self { kind: Kind::Module { pre, loaded, shared }, workload, name: name.to_owned() })
    }

    pub(super) fn component(
        engine: &Engine,
        wasi: Wasi,
        loaded: Loaded<Component>,
        name: &str,
    ) -> Result<Self, RunError> {
        let started = Instant::now();
        let linker = component_linker(engine, wasi, name)?;
        let workload = loaded.workload().named("wasi:cli/run.run");
        let pre = linker
            .instantiate_pre(&loaded)
            .map_err(|error| RunError::Link { name: name.to_owned(), message: one_line(&error) })?;
        let exports: Vec<String> =
            loaded.component_type().exports(engine).map(|(name, _)| name.to_owned()).collect();
        let newer = p3::bindings::CommandPre::new(pre.clone()).map(CommandPre::V3);
        let pre = newer.or_else(|_| p2::bindings::CommandPre::new(pre).map(CommandPre::V2));
        let pre = pre.map_err(|_| RunError::NoEntry {
            name: name.to_owned(),
            wanted: "wasi:cli/run".to_owned(),
            exports: exports.clone(),
        })?;
        workload.was_linked_in(started.elapsed());
        Ok(Self { kind: Kind::Component { pre, loaded }, workload, name: name.to_owned() })
    }

    /// The workload that it is.
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    /// Runs the guest once, in a store of its own.
    ///
    /// # Errors
    /// What keeps it from starting. How it ends, trap included, is no error.
    pub async fn run(&self, grants: &Grants) -> Result<Ended, RunError> {
        match &self.kind {
            Kind::Module { shared: Some(shared), .. } => shared.run(&self.workload, grants, &self.name).await,
            Kind::Module { pre, .. } => {
                let mut store = module_store(pre.module().engine(), &self.workload, grants, None)?;
                start(pre, &self.workload, &mut store, &self.name).await
            }
            Kind::Component { pre, loaded } => {
                let mut store = component_store(loaded.engine(), &self.workload, grants)?;
                let (result, mut span) = match pre.run(&self.workload, &mut store).await {
                    Ok(ran) => ran,
                    Err(error) => return Ok(ended_in(&self.workload, &mut store, &error)),
                };
                span.peak_memory(store.data().probe.size());
                if let Err(error) = &result {
                    span.core_dump(&mut store, error);
                }
                Ok(match result {
                    Ok(Ok(())) => Ended::Exit(0),
                    Ok(Err(())) => Ended::Exit(1),
                    Err(error) => ended(&self.workload, &error),
                })
            }
        }
    }

    /// Calls one exported function of a core module with numbers as arguments.
    ///
    /// # Errors
    /// No such function, or arguments that do not fit it.
    pub async fn invoke(&self, function: &str, args: &[String], grants: &Grants) -> Result<Ended, RunError> {
        let Kind::Module { pre, loaded, .. } = &self.kind else {
            let message = "only functions of core modules can be called by name".to_owned();
            return Err(RunError::Arguments { function: function.to_owned(), message });
        };
        let no_entry = || self.no_entry(loaded, &format!("function {function:?}"));
        let ty = loaded.get_export(function).and_then(|ty| ty.func().cloned()).ok_or_else(no_entry)?;
        let args = arguments(function, ty.params(), args)?;
        let mut results: Vec<Val> =
            ty.results().map(|ty| ty.default_value().unwrap_or(Val::I32(0))).collect();
        let mut store = module_store(pre.module().engine(), &self.workload, grants, None)?;
        let instance = match instantiate(pre, &self.workload, &mut store).await {
            Ok(instance) => instance,
            Err(error) => return Ok(ended_in(&self.workload, &mut store, &error)),
        };
        let workload = self.workload.named(function);
        let function = instance.get_func(&mut store, function).ok_or_else(no_entry)?;
        let call = function.call_async(&mut store, &args, &mut results);
        let (result, mut span) = workload.request().call_async(call).await;
        span.peak_memory(store.data().probe.size());
        if let Err(error) = &result {
            span.core_dump(&mut store, error);
        }
        Ok(match result {
            Ok(()) => Ended::Returned(results.iter().map(print).collect()),
            Err(error) => ended(&self.workload, &error),
        })
    }

    fn no_entry(&self, module: &Module, wanted: &str) -> RunError {
        let functions = module.exports().filter(|export| matches!(export.ty(), ExternType::Func(_)));
        RunError::NoEntry {
            name: self.name.clone(),
            wanted: wanted.to_owned(),
            exports: functions.map(|export| export.name().to_owned()).take(20).collect(),
        }
    }
}

impl CommandPre {
    /// Instantiates and runs; what the guest says of its success.
    ///
    /// # Errors
    /// Those of instantiation.
    async fn run<'a>(
        &self,
        workload: &'a Workload,
        store: &mut Store<ComponentState>,
    ) -> wasmtime::Result<(wasmtime::Result<Result<(), ()>>, CallSpan<'a>)> {
        Ok(match self {
            Self::V2(pre) => {
                let command = workload.instantiate_async(pre.instantiate_async(&mut *store)).await?;
                workload.request().call_async(command.wasi_cli_run().call_run(store)).await
            }
            Self::V3(pre) => {
                let command = workload.instantiate_async(pre.instantiate_async(&mut *store)).await?;
                let run =
                    store.run_concurrent(async |accessor| command.wasi_cli_run().call_run(accessor).await);
                workload.request().call_async(async { run.await? }).await
            }
        })
    }
}

/// Instantiates and, for a reactor, initializes.
pub(super) async fn instantiate(
    pre: &InstancePre<ModuleState>,
    workload: &Workload,
    store: &mut Store<ModuleState>,
) -> wasmtime::Result<Instance> {
    let instance = workload.instantiate_async(pre.instantiate_async(&mut *store)).await?;
    StoreProbe::follow(&mut *store, &instance, |state| &mut state.probe);
    if let Ok(initialize) = instance.get_typed_func::<(), ()>(&mut *store, "_initialize") {
        workload.named("_initialize").call_async(initialize.call_async(&mut *store, ())).await?;
    }
    Ok(instance)
}

/// Instantiates a command and calls `_start`.
pub(super) async fn start(
    pre: &InstancePre<ModuleState>,
    workload: &Workload,
    store: &mut Store<ModuleState>,
    name: &str,
) -> Result<Ended, RunError> {
    let entry = pre.module().get_export("_start").is_some();
    if !entry {
        let functions = pre.module().exports().filter(|export| matches!(export.ty(), ExternType::Func(_)));
        let exports = functions.map(|export| export.name().to_owned()).take(20).collect();
        return Err(RunError::NoEntry { name: name.to_owned(), wanted: "_start".to_owned(), exports });
    }
    let result = async {
        let instance = instantiate(pre, workload, store).await?;
        let start = instance.get_typed_func::<(), ()>(&mut *store, "_start")?;
        let (result, mut span) = workload.request().call_async(start.call_async(&mut *store, ())).await;
        span.peak_memory(store.data().probe.size());
        if let Err(error) = &result {
            let running =
                store.data().spawner.as_ref().map_or_else(Vec::new, |spawner| spawner.running_but(0));
            span.core_dump_among(&mut *store, error, &running);
        }
        result
    };
    Ok(match result.await {
        Ok(()) => Ended::Exit(0),
        Err(error) => ended_in(workload, store, &error),
    })
}

/// [`ended`], with the core dump of a failure that no call had, such as of an instantiation.
pub(super) fn ended_in<T: 'static>(
    workload: &Workload,
    store: &mut Store<T>,
    error: &wasmtime::Error,
) -> Ended {
    workload.core_dump(store, error, "main", &[]);
    ended(workload, error)
}

/// How a call that returned an error ended.
pub(super) fn ended(workload: &Workload, error: &wasmtime::Error) -> Ended {
    match error.downcast_ref::<I32Exit>() {
        Some(exit) => Ended::Exit(exit.0),
        None => Ended::Trapped(workload.report(error)),
    }
}

fn arguments(
    function: &str,
    params: impl ExactSizeIterator<Item = ValType>,
    args: &[String],
) -> Result<Vec<Val>, RunError> {
    let error = |message| RunError::Arguments { function: function.to_owned(), message };
    if params.len() != args.len() {
        return Err(error(format!("it takes {} arguments, {} were given", params.len(), args.len())));
    }
    params
        .zip(args)
        .map(|(ty, text)| {
            let value = match ty {
                ValType::I32 => text.parse().ok().map(Val::I32),
                ValType::I64 => text.parse().ok().map(Val::I64),
                ValType::F32 => text.parse::<f32>().ok().map(Val::from),
                ValType::F64 => text.parse::<f64>().ok().map(Val::from),
                _ => None,
            };
            value.ok_or_else(|| error(format!("{text:?} is no {ty}")))
        })
        .collect()
}

fn print(value: &Val) -> String {
    match value {
        Val::I32(value) => value.to_string(),
        Val::I64(value) => value.to_string(),
        Val::F32(bits) => f32::from_bits(*bits).to_string(),
        Val::F64(bits) => f64::from_bits(*bits).to_string(),
        Val::V128(value) => format!("{:#034x}", value.as_u128()),
        Val::FuncRef(_) => "funcref".to_owned(),
        Val::ExternRef(_) => "externref".to_owned(),
        Val::AnyRef(_) => "anyref".to_owned(),
        Val::ExnRef(_) => "exnref".to_owned(),
        Val::ContRef(_) => "contref".to_owned(),
    }
}
