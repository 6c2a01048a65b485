//! Two custom key strategies, one for calls of a function and one for pages.

use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, Request};
use axum::http::header::HOST;
use axum::routing::get;
use groupcache_axum::{PageCall, Pages};
use groupcache_core::{Cache, Call, Group, Groups, Key, KeyStrategy, Result};
use groupcache_memory::MemoryBackend;
use tower::ServiceExt;

/// The arguments of a report.
struct Report {
    year: u16,
    region: String,
}

/// Caches a report for each year and region. A sale in a region makes its reports stale.
struct ByRegion;

impl ByRegion {
    fn group(region: &str) -> Group {
        Group::new("sales").with("region", region.to_lowercase())
    }
}

impl KeyStrategy<Report> for ByRegion {
    fn key(&self, report: &Report) -> Result<Key> {
        // The name keeps these keys distinct from those of other strategies on the same cache. `North` and
        // `north` are one region, so they have one key.
        Key::of(&("report", report.year, report.region.to_lowercase()))
    }

    fn groups(&self, report: &Report) -> Result<Groups> {
        Ok(Self::group(&report.region).into())
    }
}

/// Caches the pages of a shelf. Parameters of the query that count clicks do not make another page.
struct ByShelf;

impl ByShelf {
    fn group(shelf: &str) -> Group {
        Group::new("shelf").with("name", shelf)
    }
}

impl KeyStrategy<PageCall> for ByShelf {
    fn key(&self, page: &PageCall) -> Result<Key> {
        let query = page.uri().query().unwrap_or_default();
        let counts = |pair: &&str| !pair.starts_with("utm_");
        let query: Vec<&str> = query.split('&').filter(counts).collect();
        // The cache adds the view, the host and the headers that the response varies on.
        Key::of(&(page.uri().path(), query))
    }

    fn groups(&self, page: &PageCall) -> Result<Groups> {
        Ok(Self::group(page.arguments().get("shelf").unwrap_or_default()).into())
    }

    fn check(&self, arguments: &[&str]) -> Result<()> {
        if arguments.contains(&"shelf") {
            return Ok(());
        }
        let message = "a page of a shelf needs the argument `shelf`";
        Err(groupcache_core::Error::configuration("shelves", message))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let cache = Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).build();
    a_function(&cache).await?;
    pages(cache).await?;
    println!("both key strategies work");
    Ok(())
}

async fn a_function(cache: &Cache<MemoryBackend>) -> Result<()> {
    let reports = cache.keyed(ByRegion, &[])?;
    let runs = AtomicU32::new(0);
    let load = |report: &Report| {
        let text = format!("{} {} run {}", report.region, report.year, runs.fetch_add(1, Ordering::Relaxed));
        async move { Ok::<String, groupcache_core::Error>(text) }
    };
    let north = Report { year: 2026, region: "north".to_owned() };
    let shouted = Report { year: 2026, region: "NORTH".to_owned() };
    let south = Report { year: 2026, region: "south".to_owned() };

    assert_eq!(reports.get_or_load(&north, || load(&north)).await?, "north 2026 run 0");
    assert_eq!(reports.get_or_load(&shouted, || load(&shouted)).await?, "north 2026 run 0");
    assert_eq!(reports.get_or_load(&south, || load(&south)).await?, "south 2026 run 1");

    // A sale in the north. Invalidates by the group, or by a call in it.
    cache.invalidate(ByRegion::group("north")).await?;
    assert_eq!(reports.get_or_load(&north, || load(&north)).await?, "north 2026 run 2");
    assert_eq!(reports.get_or_load(&south, || load(&south)).await?, "south 2026 run 1");
    reports.invalidate(&south).await?;
    assert_eq!(reports.get::<String>(&south).await, None);
    Ok(())
}

async fn pages(cache: Cache<MemoryBackend>) -> std::result::Result<(), Box<dyn std::error::Error>> {
    static RUNS: AtomicU32 = AtomicU32::new(0);

    async fn view_shelf(Path(shelf): Path<String>) -> String {
        format!("{shelf} run {}", RUNS.fetch_add(1, Ordering::Relaxed))
    }

    let pages = Pages::new(cache);
    let shelf = pages.strategy(ByShelf).wrap(view_shelf);
    let app: Router = pages.router().route("/shelves/{shelf}", get(shelf)).build()?;

    assert_eq!(get_page(&app, "/shelves/crime?utm_source=mail").await?, "crime run 0");
    assert_eq!(get_page(&app, "/shelves/crime?utm_source=post").await?, "crime run 0");
    assert_eq!(get_page(&app, "/shelves/crime?page=2").await?, "crime run 1");
    assert_eq!(get_page(&app, "/shelves/poems").await?, "poems run 2");

    pages.changes().groups(ByShelf::group("crime")).invalidate().await?;
    assert_eq!(get_page(&app, "/shelves/crime").await?, "crime run 3");
    assert_eq!(get_page(&app, "/shelves/poems").await?, "poems run 2");

    // `check` runs when the router is built, not at the first request.
    let misplaced = pages.strategy(ByShelf).named("misplaced").wrap(view_shelf);
    let refused = pages.router::<()>().route("/all/{name}", get(misplaced)).build();
    assert!(refused.is_err_and(|error| error.to_string().contains("needs the argument `shelf`")));
    Ok(())
}

async fn get_page(app: &Router, path: &str) -> std::result::Result<String, Box<dyn std::error::Error>> {
    let request = Request::builder().uri(path).header(HOST, "shop.example").body(Body::empty())?;
    let response = app.clone().oneshot(request).await?;
    let body = to_bytes(response.into_body(), 1 << 20).await?;
    Ok(String::from_utf8(body.to_vec())?)
}
