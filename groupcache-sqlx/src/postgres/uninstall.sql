SET LOCAL standard_conforming_strings = on;
SET LOCAL client_min_messages = warning;

DO $groupcache$
DECLARE
    found integer;
    owns_it boolean;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('groupcache ' || {schema_text}, 0));
    IF to_regclass({schema_text} || '.installation') IS NULL THEN
        RETURN;
    END IF;
    SELECT version, owns_schema INTO found, owns_it FROM {schema}.installation;
    IF found > {version} THEN
        RAISE EXCEPTION USING ERRCODE = 'GC001', MESSAGE = format(
            'schema %s has version %s of the outbox; this release knows versions up to {version}',
            {schema_text}, found);
    END IF;
    PERFORM {schema}.detach('{}');
    DROP TABLE {schema}.outbox, {schema}.installation;
    DROP FUNCTION {schema}.detach(text[]), {schema}.attach(regclass, regprocedure, regprocedure[]), {schema}.family(regclass),
        {schema}.check_column(regclass, text, boolean, boolean), {schema}.check_exists(regclass, text),
        {schema}.group_text(time), {schema}.group_text(date), {schema}.group_text(timestamptz),
        {schema}.group_text(timestamp), {schema}.group_text(anynonarray), {schema}.group_text(uuid),
        {schema}.group_text(numeric), {schema}.group_text(bigint), {schema}.group_text(integer),
        {schema}.group_text(smallint), {schema}.group_text(boolean), {schema}.group_text(bpchar),
        {schema}.group_text(text);
    IF owns_it THEN
        BEGIN
            DROP SCHEMA {schema};
        EXCEPTION WHEN dependent_objects_still_exist THEN
            -- It has tables of somebody else meanwhile.
            NULL;
        END;
    END IF;
END
$groupcache$;
