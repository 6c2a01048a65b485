//! Diesel writes, and the next read shows it.

use diesel::prelude::*;
use diesel::sql_types::BigInt;
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};
use groupcache_orms::Shop;

diesel::table! {
    books (id) {
        id -> BigInt,
        title -> Text,
    }
}

/// Returns the number of the current transaction, for `flush`.
async fn transaction_number(connection: &mut AsyncPgConnection) -> QueryResult<i64> {
    let number = diesel::dsl::sql::<BigInt>("pg_current_xact_id()::text::bigint");
    diesel::select(number).get_result(connection).await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Some(shop) = Shop::open().await else { return Ok(()) };
    let mut connection = AsyncPgConnection::establish(&shop.url).await?;
    for n in 0..20 {
        let other = shop.title(6).await;
        let new = format!("{}, revised {n}", shop.title(5).await);

        let title = new.clone();
        let number = connection
            .transaction(async |connection| {
                diesel::update(books::table.find(5)).set(books::title.eq(title)).execute(connection).await?;
                transaction_number(connection).await
            })
            .await?;
        // From here on, no reader gets the old title.
        shop.outbox.flush(number).await?;
        assert_eq!(shop.title(5).await, new);

        let hits = shop.hits();
        assert_eq!(shop.title(6).await, other);
        assert_eq!(shop.hits(), hits + 1, "another book stays cached");
    }
    diesel::delete(books::table).execute(&mut connection).await?;
    diesel::insert_into(books::table)
        .values((books::id.eq(5_i64), books::title.eq("Anew")))
        .execute(&mut connection)
        .await?;
    shop.outbox.flush_all().await?;
    assert_eq!(shop.title(5).await, "Anew");
    println!("Diesel: every write was visible after its flush");
    Ok(())
}
