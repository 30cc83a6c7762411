/* host.c - a folder, a config file, and a look into the file from outside. */
#define _GNU_SOURCE
#include "tests/live/host.h"

#include <dirent.h>
#include <fcntl.h>
#include <sqlite3.h>

bool host_begin(struct host *host)
{
    snprintf(host->folder, sizeof host->folder, "/tmp/belay-host-XXXXXX");
    if (mkdtemp(host->folder) == NULL) host->folder[0] = '\0';
    snprintf(host->path, sizeof host->path, "%s/locks.db", host->folder);
    return host->folder[0] != '\0';
}

void host_end(struct host *host)
{
    DIR *folder = host->folder[0] != '\0' ? opendir(host->folder) : NULL;
    for (struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;)
        if (entry->d_name[0] != '.') unlinkat(dirfd(folder), entry->d_name, 0);
    if (folder != NULL) {
        closedir(folder);
        rmdir(host->folder);
    }
    host->folder[0] = '\0';
}

static const char *text(const char *given)
{
    return given != NULL ? given : "";
}

belay *fallback_try_open(const struct fallback_at *at, const belay_open_options *options)
{
    char config[4096];
    snprintf(config, sizeof config,
             "use = \"ha\";\n%s\nbackends: {\n"
             "  main: { type = \"redis\"; %s %s };\n"
             "  local: { type = \"sqlite\"; path = \"%s\"; };\n"
             "  ha: { type = \"fallback\"; primary = \"main\"; secondary = \"local\"; %s };\n};\n",
             text(at->top), at->at, text(at->redis), at->host->path, text(at->fallback));
    return client_try_open_text(config, options);
}

belay *fallback_open(const struct fallback_at *at, const belay_open_options *options)
{
    belay *client = fallback_try_open(at, options);
    assert_non_null(client);
    return client;
}

/* ------------------------------------------------------------------ the file */

static sqlite3 *file_open(const struct host *host)
{
    sqlite3 *db = NULL;
    if (sqlite3_open_v2(host->path, &db, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK) {
        sqlite3_close(db);
        return NULL;
    }
    sqlite3_busy_timeout(db, 10000);
    return db;
}

int64_t host_number(const struct host *host, const char *sql)
{
    int64_t number = HOST_NO_NUMBER;
    sqlite3_stmt *statement = NULL;
    sqlite3 *db = file_open(host);
    if (db == NULL) return number;
    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) == SQLITE_OK &&
        sqlite3_step(statement) == SQLITE_ROW)
        number = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    sqlite3_close(db);
    return number;
}

long host_rows(const struct host *host)
{
    int64_t rows =
        host_number(host, "SELECT (SELECT count(*) FROM locks) + (SELECT count(*) FROM waiters)");
    return rows == HOST_NO_NUMBER ? -1 : (long)rows;
}

bool host_sql(const struct host *host, const char *sql)
{
    sqlite3 *db = file_open(host);
    bool done = db != NULL && sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK;
    if (!done) fprintf(stderr, "%s: %s\n", sql, db != NULL ? sqlite3_errmsg(db) : "no file");
    sqlite3_close(db);
    return done;
}

/* ------------------------------------------------------------------ health */

bool is_degraded(belay *client)
{
    belay_health health = { .size = sizeof health };
    return belay_get_health(client, &health, NULL) == BELAY_OK && health.degraded;
}
