#!/usr/bin/env bash
# Builds and starts the bookstore, and takes the tour of the README with curl.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$(mktemp -d)
bookstore=
finish() {
    if [ -n "$bookstore" ]; then
        kill "$bookstore" 2>/dev/null || true
        wait "$bookstore" 2>/dev/null || true
    fi
    rm -rf "$folder"
}
trap finish EXIT

fail() { printf 'tests/bookstore.sh: %s\n' "$*" >&2; exit 1; }

command -v curl >/dev/null 2>&1 || fail "curl is not installed"

program=${CARGO_TARGET_DIR:-target}/release/examples/bookstore
cargo build --locked --release --example bookstore
"$program" --listen 127.0.0.1:0 --database "sqlite://$folder/books.sqlite" > "$folder/log" &
bookstore=$!
for _ in $(seq 100); do
    url=$(sed -n 's/.*\(http:[^ ]*[0-9]\).*/\1/p' "$folder/log" | head -n 1)
    [ -n "$url" ] && break
    sleep 0.1
done
[ -n "$url" ] || fail "the bookstore does not start: $(cat "$folder/log")"

# header NAME PATH: the value of a header of a page.
header() { curl -fsS -o /dev/null -D - "$url$2" | tr -d '\r' | sed -n "s/^$1: //Ip"; }
same() { [ "$1" = "$2" ] || fail "$3: $1 and $2"; }
differ() { [ "$1" != "$2" ] || fail "$3: $1 twice"; }

first=$(header x-render /books/5)
same "$first" "$(header x-render /books/5)" "the second GET repeats x-render"
same "groupcache; hit" "$(header cache-status /books/5)" "the second GET is a hit"
unrelated=$(header x-render /books/6)

curl -fsS -X PUT "$url/api/books/5" -H 'content-type: application/json' \
    -d '{"title": "A Changed Title", "author_id": 2, "genre": "novel", "year": 1817}' > /dev/null
curl -fsS "$url/books/5" | grep -q 'A Changed Title' || fail "the first GET after the PUT does not show the new title"
differ "$first" "$(header x-render /books/5)" "the page of the changed book is rendered again"
same "$unrelated" "$(header x-render /books/6)" "the page of another book stays cached"

# Another program writes to the database.
if command -v sqlite3 >/dev/null 2>&1; then
    before=$(header x-render /books/5)
    sqlite3 -cmd '.timeout 5000' "$folder/books.sqlite" "UPDATE books SET title = 'Changed By Hand' WHERE id = 5"
    sleep 1
    curl -fsS "$url/books/5" | grep -q 'Changed By Hand' || fail "a change by sqlite3 does not show within a second"
    differ "$before" "$(header x-render /books/5)" "the page of a book that sqlite3 changed is rendered again"
    same "$unrelated" "$(header x-render /books/6)" "the page of another book stays cached after a change by sqlite3"
elif [ "${GROUPCACHE_REQUIRE_SERVERS:-}" = 1 ]; then
    fail "sqlite3 is not installed"
else
    echo "SKIPPED: sqlite3 is not installed; see tests/servers.sh" >&2
fi

about=$(header x-render /about)
curl -fsS -X POST "$url/uncache/tag/static" > /dev/null
differ "$about" "$(header x-render /about)" "a page is rendered again after its tag was uncached"
curl -fsS -X POST "$url/uncache/path" -d /books/6 > /dev/null
differ "$unrelated" "$(header x-render /books/6)" "a page is rendered again after its path was uncached"

etag=$(header etag /books/5)
same 304 "$(curl -sS -o /dev/null -w '%{http_code}' -H "if-none-match: $etag" "$url/books/5")" "a page with a known ETag is 304"
curl -fsS -X DELETE "$url/api/books/5" > /dev/null
same 404 "$(curl -sS -o /dev/null -w '%{http_code}' "$url/books/5")" "the page of a deleted book is 404 at once"

for page in / /books /authors/1 /api/books/6 /api/authors/1 /feed/atom/novel/10 /feed/rss/novel/10 /feed/json/novel/10; do
    same "$(header x-render "$page")" "$(header x-render "$page")" "$page is cached"
done
curl -fsS "$url/stats" | grep -q '"hits":' || fail "/stats has no counters"
for bad in "--listen nowhere" "--backend paper" "--database x"; do
    code=0
    # shellcheck disable=SC2086 # splits the option from its value
    "$program" $bad > /dev/null 2> "$folder/error" || code=$?
    same 2 "$code" "exit code of $bad"
    same 1 "$(wc -l < "$folder/error")" "lines on stderr of $bad"
done
echo "the tour of the README works"
