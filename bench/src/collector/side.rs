//! The collector under load, in a process of its own.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result};
use sandscope_collector::{Collector, Config};

/// Serves until it is killed, with its log in a directory or, without one, in memory. Says where on the standard output.
pub fn run(data: Option<&str>) -> Result<()> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let data = data.map(PathBuf::from);
    let config = Config { otlp: any, otlp_http: any, query: any, http: any, data, ..Config::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let collector = Collector::bind(config).await.context("start the collector")?;
        println!("http://{}", collector.otlp_addr());
        std::io::stdout().flush()?;
        collector.run(std::future::pending()).await.context("run the collector")
    })
}
