-- groupcache: invalidation from the database. Run this in one transaction.
SET LOCAL standard_conforming_strings = on;
SET LOCAL client_min_messages = warning;

DO $groupcache$
DECLARE
    found integer;
    creates_schema boolean := to_regnamespace({schema_text}) IS NULL;
BEGIN
    IF current_setting('server_encoding') = 'SQL_ASCII' THEN
        RAISE EXCEPTION USING ERRCODE = 'GC001',
            MESSAGE = 'the encoding of the database is SQL_ASCII: its texts may be no Unicode, which the relay cannot read';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('groupcache ' || {schema_text}, 0));
    IF creates_schema THEN
        CREATE SCHEMA IF NOT EXISTS {schema};
    END IF;
    IF to_regclass({schema_text} || '.installation') IS NULL THEN
        IF to_regclass({schema_text} || '.outbox') IS NOT NULL THEN
            RAISE EXCEPTION USING ERRCODE = 'GC001',
                MESSAGE = format('schema %s has a table `outbox` that is not from groupcache', {schema_text});
        END IF;
        CREATE TABLE {schema}.installation (
            only_row      boolean PRIMARY KEY DEFAULT true CHECK (only_row),
            version       integer NOT NULL,
            delivery      text NOT NULL,
            owns_schema   boolean NOT NULL,
            -- Rows of all transactions before this one may have been removed.
            pruned_before xid8 NOT NULL DEFAULT '0'
        );
        CREATE TABLE {schema}.outbox (
            xid        xid8 NOT NULL DEFAULT pg_current_xact_id(),
            id         bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
            written_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            -- Until then the transaction's own process delivers it. Any role can change the setting, so it has a limit.
            held_until timestamptz DEFAULT CASE WHEN coalesce(current_setting('groupcache.hold', true), '') <> ''
                THEN clock_timestamp() + least(current_setting('groupcache.hold')::interval, interval '10 seconds') END,
            name       text NOT NULL,
            fields     text[] NOT NULL,
            texts      text[] NOT NULL,
            folded     text[] NOT NULL,
            PRIMARY KEY (xid, id)
        ) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
        INSERT INTO {schema}.installation (version, delivery, owns_schema)
        VALUES ({version}, '{delivery}', creates_schema);
    ELSE
        SELECT version INTO found FROM {schema}.installation;
        IF found > {version} THEN
            RAISE EXCEPTION USING ERRCODE = 'GC001', MESSAGE = format(
                'schema %s has version %s of the outbox; this release knows versions up to {version}',
                {schema_text}, found);
        END IF;
        UPDATE {schema}.installation SET version = {version}, delivery = '{delivery}'
        WHERE (version, delivery) <> ({version}, '{delivery}');
    END IF;
END
$groupcache$;

-- The text of a value in the field of a group: what serde writes for the same value in Rust. None depends on
-- the settings of a session.
CREATE OR REPLACE FUNCTION {schema}.group_text(text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS 'SELECT $1';
-- Unlike the cast, the output function keeps the padding.
CREATE OR REPLACE FUNCTION {schema}.group_text(bpchar) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS 'SELECT pg_catalog.textin(pg_catalog.bpcharout($1))';
CREATE OR REPLACE FUNCTION {schema}.group_text(boolean) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS 'SELECT $1::text';
CREATE OR REPLACE FUNCTION {schema}.group_text(smallint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS 'SELECT $1::text';
CREATE OR REPLACE FUNCTION {schema}.group_text(integer) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS 'SELECT $1::text';
CREATE OR REPLACE FUNCTION {schema}.group_text(bigint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS 'SELECT $1::text';
-- In Rust, sqlx reads a zero of any scale as a plain zero.
CREATE OR REPLACE FUNCTION {schema}.group_text(numeric) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $text$ SELECT CASE WHEN $1 = 0 THEN '0' ELSE $1::text END $text$;
CREATE OR REPLACE FUNCTION {schema}.group_text(uuid) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS 'SELECT $1::text';
-- Enums, and domains over enums, which `anyenum` does not take.
CREATE OR REPLACE FUNCTION {schema}.group_text(anynonarray) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
    AS 'SELECT $1::text';
-- Whole seconds, milliseconds or microseconds: the shortest that loses nothing.
CREATE OR REPLACE FUNCTION {schema}.group_text(timestamp) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
    AS $text$
    SELECT CASE WHEN NOT isfinite($1) THEN $1::text ELSE to_char($1, CASE
        WHEN extract(microseconds FROM $1)::bigint % 1000000 = 0 THEN 'YYYY-MM-DD"T"HH24:MI:SS'
        WHEN extract(microseconds FROM $1)::bigint % 1000 = 0 THEN 'YYYY-MM-DD"T"HH24:MI:SS.MS'
        ELSE 'YYYY-MM-DD"T"HH24:MI:SS.US' END) END
    $text$;
CREATE OR REPLACE FUNCTION {schema}.group_text(timestamptz) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
    AS $text$ SELECT {schema}.group_text($1 AT TIME ZONE 'UTC') || 'Z' $text$;
CREATE OR REPLACE FUNCTION {schema}.group_text(date) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
    AS $text$
    SELECT CASE WHEN isfinite($1) THEN to_char($1, 'YYYY-MM-DD') ELSE $1::text END
    $text$;
CREATE OR REPLACE FUNCTION {schema}.group_text(time) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
    AS $text$ SELECT substr({schema}.group_text('2000-01-01'::date + $1), 12) $text$;

-- Raises if triggers do not see the column.
CREATE OR REPLACE FUNCTION {schema}.check_exists(watched regclass, wanted text) RETURNS void
LANGUAGE plpgsql STABLE AS $groupcache$
DECLARE
    existing text := (SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute
        WHERE attrelid = watched AND attnum > 0 AND NOT attisdropped);
BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute
        WHERE attrelid = watched AND attname = wanted AND attnum > 0 AND NOT attisdropped) THEN
        RAISE EXCEPTION USING ERRCODE = 'GC001',
            MESSAGE = format('table %s has no column `%s`; it has: %s', watched, wanted, existing);
    END IF;
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = watched AND attname = wanted AND attgenerated = 'v') THEN
        RAISE EXCEPTION USING ERRCODE = 'GC001', MESSAGE = format(
            'column `%s` of table %s is generated when it is read, so triggers do not see it: make it STORED',
            wanted, watched);
    END IF;
END
$groupcache$;

-- Raises if the column is missing or has no canonical text. `wanted` is a column of a group.
CREATE OR REPLACE FUNCTION {schema}.check_column(
    watched regclass, wanted text, is_array boolean, folds_case boolean
) RETURNS void LANGUAGE plpgsql STABLE AS $groupcache$
DECLARE
    attribute pg_attribute;
    kind pg_type;
    modifier integer;
    shown_type text;
    problem text;
BEGIN
    PERFORM {schema}.check_exists(watched, wanted);
    SELECT * INTO attribute FROM pg_attribute WHERE attrelid = watched AND attname = wanted;
    shown_type := format_type(attribute.atttypid, attribute.atttypmod);
    SELECT * INTO kind FROM pg_type WHERE oid = attribute.atttypid;
    modifier := attribute.atttypmod;
    LOOP
        IF kind.typtype = 'd' THEN
            modifier := greatest(modifier, kind.typtypmod);
            SELECT * INTO kind FROM pg_type WHERE oid = kind.typbasetype;
        ELSIF is_array AND kind.typcategory = 'A' THEN
            is_array := false;
            SELECT * INTO kind FROM pg_type WHERE oid = kind.typelem;
        ELSE
            EXIT;
        END IF;
    END LOOP;
    problem := CASE
        WHEN is_array THEN 'is no array, but is declared with `elements`'
        WHEN kind.typcategory = 'A' THEN 'is an array: declare it with `elements`'
        WHEN NOT folds_case AND (kind.typname = 'citext' OR EXISTS (
            SELECT FROM pg_collation WHERE oid = attribute.attcollation AND NOT collisdeterministic))
            THEN 'is compared without case: declare it with `case_insensitive`, or fold the case in `Model::argument`'
        WHEN folds_case AND kind.typcategory <> 'S' THEN 'is no text, but is declared as `case_insensitive`'
        WHEN kind.typname = 'numeric' AND modifier = -1
            THEN 'has several texts for one number: give it a scale, as in numeric(10, 2)'
        WHEN kind.typname = 'bpchar' AND modifier = -1 THEN 'has several texts for one value: give it a length'
        WHEN kind.typtype = 'e' OR kind.typname = 'citext' THEN NULL
        WHEN kind.oid IN ('bool'::regtype, 'int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'text'::regtype,
            'varchar'::regtype, 'bpchar'::regtype, 'numeric'::regtype, 'uuid'::regtype, 'date'::regtype,
            'time'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype) THEN NULL
        ELSE 'has no canonical text: group by a column of another type' END;
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'GC001',
            MESSAGE = format('column `%s` of table %s, a %s, %s', wanted, watched, shown_type, problem);
    END IF;
END
$groupcache$;

-- The table, its partitions and its descendants. A statement fires the triggers of the table it names only.
CREATE OR REPLACE FUNCTION {schema}.family(watched regclass) RETURNS SETOF regclass LANGUAGE sql STABLE AS $groupcache$
    WITH RECURSIVE family AS (
        SELECT watched::oid AS oid
        UNION SELECT inhrelid FROM pg_inherits JOIN family ON inhparent = family.oid
    )
    SELECT oid::regclass FROM family JOIN pg_class USING (oid) WHERE relkind IN ('r', 'p')
$groupcache$;

-- Attaches the triggers that call `handler` to the table and its family.
CREATE OR REPLACE FUNCTION {schema}.attach(watched regclass, handler regprocedure, declared regprocedure[]) RETURNS void
LANGUAGE plpgsql AS $groupcache$
DECLARE
    member regclass;
    event text;
    name text;
    rows text;
BEGIN
    FOR member IN SELECT {schema}.family(watched) LOOP
        IF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = member AND tgfoid = ANY (declared)) THEN
            RAISE EXCEPTION USING ERRCODE = 'GC001', MESSAGE = format(
                'table %s is declared twice, by two names or as a part of another table: declare its groups in one place',
                member);
        END IF;
        FOREACH event IN ARRAY ARRAY['insert', 'update', 'delete', 'truncate'] LOOP
            name := {schema_name} || '_' || event;
            CONTINUE WHEN EXISTS (SELECT FROM pg_trigger WHERE tgrelid = member AND tgname = name
                AND tgfoid = handler AND tgenabled = 'A' AND NOT tgisinternal);
            rows := CASE event
                WHEN 'insert' THEN 'REFERENCING NEW TABLE AS new_rows'
                WHEN 'update' THEN 'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows'
                WHEN 'delete' THEN 'REFERENCING OLD TABLE AS old_rows'
                ELSE '' END;
            EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', name, member);
            EXECUTE format('CREATE TRIGGER %I %s %s ON %s %s FOR EACH STATEMENT EXECUTE FUNCTION %s', name,
                CASE event WHEN 'truncate' THEN 'BEFORE' ELSE 'AFTER' END, event, member, rows,
                handler);
            EXECUTE format('ALTER TABLE ONLY %s ENABLE ALWAYS TRIGGER %I', member, name);
        END LOOP;
    END LOOP;
END
$groupcache$;

-- Removes the triggers and handlers of all tables but these. A function that writes no outbox is the application's.
CREATE OR REPLACE FUNCTION {schema}.detach(except_handlers text[]) RETURNS void
LANGUAGE plpgsql AS $groupcache$
DECLARE
    stale record;
BEGIN
    FOR stale IN
        SELECT tgname, tgrelid::regclass AS member FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid
        WHERE pronamespace = {schema_text}::regnamespace AND proname LIKE 'on %' AND proname <> ALL (except_handlers)
            AND strpos(prosrc, 'INSERT INTO ' || {schema_text} || '.outbox (') > 0
            AND NOT tgisinternal
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', stale.tgname, stale.member);
    END LOOP;
    FOR stale IN
        SELECT proname FROM pg_proc
        WHERE pronamespace = {schema_text}::regnamespace AND proname LIKE 'on %' AND proname <> ALL (except_handlers)
            AND strpos(prosrc, 'INSERT INTO ' || {schema_text} || '.outbox (') > 0
            AND prorettype = 'trigger'::regtype
    LOOP
        EXECUTE format('DROP FUNCTION %I.%I()', {schema_name}, stale.proname);
    END LOOP;
END
$groupcache$;
