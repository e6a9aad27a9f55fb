//! `sandscope symbols`: debug info into a store, out of it, and what it holds.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use sandscope_model::ModuleId;

use crate::args::{Reach, SymbolsArgs, SymbolsCommand};
use crate::problem::Problem;
use crate::store::Store;

/// Does what the subcommand says.
pub fn symbols(args: &SymbolsArgs) -> Result<ExitCode, Problem> {
    match &args.command {
        SymbolsCommand::Push { files, to, with_code, reach } => {
            push(files, &store(to.as_deref(), reach)?, *with_code)?;
        }
        SymbolsCommand::List { from, reach } => {
            for held in store(from.as_deref(), reach)?.list()? {
                println!("{} {}", held.id, held.size);
            }
        }
        SymbolsCommand::Fetch { id, output, from, reach } => {
            fetch(id, output.as_deref(), &store(from.as_deref(), reach)?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn store(place: Option<&str>, reach: &Reach) -> Result<Store, Problem> {
    Ok(Store::at(place, reach.credentials()?)?)
}

fn push(files: &[PathBuf], store: &Store, with_code: bool) -> Result<(), Problem> {
    for path in files {
        let name = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|error| Problem::usage(format!("read {name}: {error}")))?;
        let blank = if with_code { None } else { Some(blank(&name, &bytes)?) };
        let ids = store.push(&name, blank.as_deref().unwrap_or(&bytes))?;
        println!("{}", ids.module);
    }
    Ok(())
}

/// The file without code and data.
fn blank(name: &str, bytes: &[u8]) -> Result<Vec<u8>, Problem> {
    sandscope_recording::scrub(bytes).ok_or_else(|| {
        Problem::usage(format!("leave code and data out of {name}: it is no whole WebAssembly module"))
            .next("--with-code keeps the file as it is.")
    })
}

fn fetch(id: &str, output: Option<&Path>, store: &Store) -> Result<(), Problem> {
    let id = ModuleId::parse(id).ok_or_else(|| {
        Problem::usage(format!("understand the id {id:?}")).next("An id is hexadecimal, as `list` prints it.")
    })?;
    let bytes = store.fetch(&id)?.ok_or_else(|| {
        Problem::usage(format!("find debug info of {id}"))
            .next("Push it with `sandscope symbols push`, or name another store with --from.")
    })?;
    let path = output.map_or_else(|| PathBuf::from(format!("{}.wasm", id.short())), Path::to_owned);
    std::fs::write(&path, bytes)
        .map_err(|error| Problem::usage(format!("write to {}: {error}", path.display())))?;
    println!("{}", path.display());
    Ok(())
}
