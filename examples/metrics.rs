//! One scrape is the whole cluster: what the framework counts, and what your workers count themselves.
//!
//! `cargo run --example metrics`, then
//!
//! | type | see |
//! |---|---|
//! | `for n in 1 2 3; do curl localhost:8084/tea; done` | `tea from worker …` |
//! | `curl -s localhost:9184/metrics \| grep ^shop_` | `shop_orders_total{drink="tea"} 3`, whoever served them, and how long they took |
//! | `kill -9` of a worker's pid, and the same again | no counter has fallen: `shop_orders_total`, `actix_cluster_requests_total` |
//! | `curl -s localhost:9184/metrics \| grep -E 'exits\|restarts'` | one more, with its reason |
//! | `curl -i localhost:9184/healthz` | 200 and `ready 2 of 2`; 503 while nobody is ready |
//!
//! Prometheus reads it with the target `localhost:9184`. Workers tell their numbers once a second.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::{Cluster, ClusterBuilder, ToListenAddr, Worker};
use actix_cluster_actors::metrics::worker::WorkerMetrics;
use actix_cluster_actors::metrics::{Metrics, MetricsConfig, MetricsError, MetricsView};
use actix_web::{App, web};

pub(crate) fn main() -> ExitCode {
    match cluster("127.0.0.1:8084", (Ipv4Addr::LOCALHOST, 9184).into()) {
        Ok((cluster, _)) => cluster.main(),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The whole cluster, and the view that knows where it is scraped; the suite of scenarios runs it on other addresses.
pub(crate) fn cluster(
    address: impl ToListenAddr,
    metrics: SocketAddr,
) -> Result<(ClusterBuilder, MetricsView), MetricsError> {
    let metrics = Metrics::new(MetricsConfig::new().listen(metrics).min_ready(1));
    let view = metrics.view();
    let cluster = Cluster::builder()
        .workers(2)
        // Their age is a metric, too.
        .heartbeat(Duration::from_secs(3))
        .listen("http", address)
        .worker(serve);
    Ok((metrics.attach(cluster)?, view))
}

async fn serve(worker: Worker) -> Result<(), Box<dyn std::error::Error>> {
    let metrics = WorkerMetrics::new(&worker);
    // Registered before anybody asks for it, so that it is there with 0.
    let tea = metrics.counter("shop_orders_total", "Drinks served", &[("drink", "tea")])?;
    let coffee = metrics.counter("shop_orders_total", "Drinks served", &[("drink", "coffee")])?;
    let seconds = metrics.histogram("shop_order_seconds", "How long an order took", &[], &[0.001, 0.01, 0.1])?;
    let id = worker.id();
    let app = move || {
        let (tea, coffee, seconds) = (tea.clone(), coffee.clone(), seconds.clone());
        let order = move |drink: web::Path<String>| {
            let (count, seconds) = match drink.as_str() {
                "tea" => (Some(tea.clone()), seconds.clone()),
                "coffee" => (Some(coffee.clone()), seconds.clone()),
                _ => (None, seconds.clone()),
            };
            async move {
                let begun = tokio::time::Instant::now();
                actix_rt::time::sleep(Duration::from_millis(2)).await;
                let Some(count) = count else {
                    return format!("no {drink} here\n");
                };
                count.inc();
                seconds.observe(begun.elapsed().as_secs_f64());
                format!("{drink} from worker {id}\n")
            }
        };
        App::new().route("/{drink}", web::get().to(order))
    };
    worker.serve("http", app).await?;
    Ok(())
}
