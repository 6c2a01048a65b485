//! sqlx 0.8 writes, beside the sqlx of groupcache-sqlx in one program, and the next read shows it.

use groupcache_orms::Shop;
use sqlx_08::PgPool;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Some(shop) = Shop::open().await else { return Ok(()) };
    let pool = PgPool::connect(&shop.url).await?;
    for n in 0..20 {
        let other = shop.title(6).await;
        let new = format!("{}, revised {n}", shop.title(5).await);

        let mut transaction = pool.begin().await?;
        let update = sqlx_08::query("UPDATE books SET title = $1 WHERE id = 5").bind(&new);
        update.execute(&mut *transaction).await?;
        let number = sqlx_08::query_scalar("SELECT pg_current_xact_id()::text::bigint");
        let number: i64 = number.fetch_one(&mut *transaction).await?;
        transaction.commit().await?;
        // From here on, no reader gets the old title.
        shop.outbox.flush(number).await?;
        assert_eq!(shop.title(5).await, new);

        let hits = shop.hits();
        assert_eq!(shop.title(6).await, other);
        assert_eq!(shop.hits(), hits + 1, "another book stays cached");
    }
    println!("sqlx 0.8: every write was visible after its flush");
    Ok(())
}
