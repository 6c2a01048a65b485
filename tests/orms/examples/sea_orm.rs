//! SeaORM writes, and the next read shows it.

use groupcache_orms::Shop;
use sea_orm::entity::prelude::*;
use sea_orm::{ConnectionTrait, Database, DbBackend, Set, Statement, TransactionTrait};

mod book {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "books")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: i64,
        pub title: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Some(shop) = Shop::open().await else { return Ok(()) };
    let database = Database::connect(&shop.url).await?;
    for n in 0..20 {
        let other = shop.title(6).await;
        let before = shop.title(5).await;
        let new = format!("{before}, revised {n}");

        let transaction = database.begin().await?;
        book::ActiveModel { id: Set(5), title: Set(new.clone()) }.update(&transaction).await?;
        let number = "SELECT pg_current_xact_id()::text::bigint AS number";
        let number = Statement::from_string(DbBackend::Postgres, number);
        let number = transaction.query_one_raw(number).await?.ok_or("no row")?.try_get("", "number")?;
        transaction.commit().await?;
        // From here on, no reader gets the old title.
        shop.outbox.flush(number).await?;
        assert_eq!(shop.title(5).await, new);

        let hits = shop.hits();
        assert_eq!(shop.title(6).await, other);
        assert_eq!(shop.hits(), hits + 1, "another book stays cached");
    }
    // A bulk update in one statement.
    book::Entity::update_many().col_expr(book::Column::Title, Expr::value("Same")).exec(&database).await?;
    shop.outbox.flush_all().await?;
    assert_eq!((shop.title(5).await, shop.title(6).await), ("Same".to_owned(), "Same".to_owned()));
    println!("SeaORM: every write was visible after its flush");
    Ok(())
}
