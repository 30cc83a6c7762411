/* sqlite.h - private to backends/sqlite*.c: the parts of the sqlite backend and what each promises.
 *
 *   sqlite.c         the backend: verbs, the queue behind a busy file, grants, chores
 *   sqlite_store.c   the database: opening, turns, transactions, statements, rows
 *   sqlite_file.c    what is in it: the schema, a new file, the header, another boot, damage
 *   sqlite_place.c   where the file may be: directory, owner, mode, filesystem; putting a new one
 * there sqlite_holder.c  who holds: this process, that process, and whether it is provably gone
 *   sqlite_wake.c    telling a waiter in another process: datagram sockets and pidfds
 *   sqlite_chore.c   whose turn is it now: the next waiter, rows of waits that ended
 *   sqlite_look.c    inspect, list, diagnose
 */
#ifndef BELAY_BACKENDS_SQLITE_H
#define BELAY_BACKENDS_SQLITE_H

#include <belay/backend.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <sys/types.h>

#define SQLITE_PATH_MAX 480 /* SQLite's own limit is 512, and it appends "-journal" */

/* Why something could not be done; made where the fact is known, told by whoever started it. */
struct sqlite_failure {
    belay_status status;
    belay_cause cause;
    char text[256];
};

/* Fills it; returns false, so that `return belay__sqlite_fail(...)` reads well. */
bool belay__sqlite_fail(struct sqlite_failure *f, belay_status status, belay_cause cause,
                        const char *format, ...) __attribute__((format(printf, 4, 5)));
/* The same for what a system call said: "WHAT: strerror". Permission is REFUSED, all else
 * UNAVAILABLE. */
bool belay__sqlite_fail_errno(struct sqlite_failure *f, int error, const char *what);

/* ------------------------------------------------------------------ place */

struct sqlite_place {
    const char *roots[2];            /* where the default directory may be made, in this order */
    char given[SQLITE_PATH_MAX];     /* the `path` setting; "" is the default place */
    char path[SQLITE_PATH_MAX];      /* the file, its directory resolved; "" until it was found */
    char directory[SQLITE_PATH_MAX]; /* without a slash at its end */
    char group_name[64];             /* "": not shared */
    char why_second[256]; /* why the default place is not the first of `roots`; "" if it is */
    bool surprising;      /* that one is read-only for us alone: a sandbox, perhaps */
    gid_t group;
    mode_t mode;
    bool shared; /* `group` was given: other users' files are welcome */
};

/* Reads the settings. OK or CONFIG. */
belay_status belay__sqlite_place_init(struct sqlite_place *place, const belay_settings *settings,
                                      belay_error *err);
/* What to call it in messages, also before it was found. */
const char *belay__sqlite_place_name(const struct sqlite_place *place);
/* Makes the default directory where it is missing; checks directory and filesystem; sets path and
 * directory. */
bool belay__sqlite_place_find(struct sqlite_place *place, struct sqlite_failure *f);
/* Checks the file, and its journal if there is one. *absent: there is no file. */
bool belay__sqlite_place_check(const struct sqlite_place *place, struct stat *st, bool *absent,
                               struct sqlite_failure *f);
/* Puts a complete new file there in one step, unless another process was first: also true. */
bool belay__sqlite_place_install(const struct sqlite_place *place, const void *image, size_t size,
                                 const char *unique, struct sqlite_failure *f);
/* Gives the journal to the group, as the file is. */
void belay__sqlite_place_share(const struct sqlite_place *place, const char *file);
/* Is a filesystem of this kind on this machine alone? *name: what to call it, or NULL. */
bool belay__sqlite_filesystem_local(unsigned long magic, const char **name);

/* ------------------------------------------------------------------ holder */

/* Who we are; read once. What can't be read stays 0 or false. */
struct sqlite_self {
    pid_t pid;
    int64_t start;      /* ticks since boot, from /proc/self/stat */
    int64_t pid_ns;     /* inode of the pid namespace */
    int64_t shift_ns;   /* this time namespace's CLOCK_BOOTTIME minus the machine's */
    bool proc;          /* /proc shows our own pid namespace */
    size_t boot_length; /* 16, or 0: not known */
    unsigned char boot[16];
    int32_t boot_mark; /* a hash of it that is never 0; 1: not known */
};

/* A process that may hold a lock, as a row has it. */
struct sqlite_holder {
    int64_t pid, start, pid_ns; /* pid 0: none, the row lives by its TTL */
    int64_t pid2, start2;       /* a second process that holds too; pid2 0: none */
};

void belay__sqlite_self_read(struct sqlite_self *self);
/* The start time of a process; 0: not known. */
int64_t belay__sqlite_start_of(const struct sqlite_self *self, pid_t pid);
/* Provably gone (SEMANTICS 9)? What is not known is alive. */
bool belay__sqlite_process_gone(const struct sqlite_self *self, int64_t pid, int64_t start);
/* Both processes gone? False where the row names none, or is of another pid namespace. */
bool belay__sqlite_holder_gone(const struct sqlite_self *self, const struct sqlite_holder *holder);

/* ------------------------------------------------------------------ store */

enum sqlite_statement {
    SQL_BEGIN,
    SQL_COMMIT,
    SQL_ROLLBACK,
    SQL_LOOK,
    SQL_FENCE,
    SQL_RAISE,
    SQL_TAKE,
    SQL_EXTEND,
    SQL_FREE,
    SQL_SWEEP,
    SQL_WAIT,
    SQL_UNWAIT,
    SQL_NEXT,
    SQL_COUNT,
    SQL_LIST,
    SQL_STATEMENTS
};

/* One file, open or not. */
struct sqlite_store {
    belay_env *env;
    struct sqlite_place place;
    struct sqlite_self self;
    sqlite3 *db;        /* NULL: not open */
    sqlite3_file *file; /* SQLite's own descriptor of it */
    sqlite3_stmt *statements[SQL_STATEMENTS];
    bool foreign_boot; /* another boot used it last: to be checked and emptied */
    bool sync_due;     /* what its settings are to be, once there is a turn to read it */
    bool journal_due;
    bool inside;      /* has this process's turn: a transaction is open */
    bool turned_away; /* at the last try another process was in the file */
    bool known;       /* device and inode are those of the file that was opened last */
    dev_t device;
    ino_t inode;
};

enum sqlite_turn {
    TURN_GO,    /* inside a transaction that no one else can disturb */
    TURN_BUSY,  /* another process is in it: again, later */
    TURN_MOVED, /* another file stands there, or none: what we held is gone. Again, now */
    TURN_FAILED /* f says why */
};

/* A row of `locks`. Blobs point into the statement and live until it is reset. */
struct sqlite_row {
    bool there;
    char owner[BELAY_OWNER_LENGTH + 1];
    int64_t token, expires_ns, taken_ns, shift_ns;
    unsigned char boot[16];
    size_t boot_length;
    struct sqlite_holder holder;
};

/* Opens the file if it is not open, making it where it is missing. TURN_GO: it is open. */
enum sqlite_turn belay__sqlite_store_open(struct sqlite_store *s, struct sqlite_failure *f);
void belay__sqlite_store_close(struct sqlite_store *s);
/* Begins a transaction on the file that stands at the path now, opening it if it is not open. */
enum sqlite_turn belay__sqlite_store_begin(struct sqlite_store *s, struct sqlite_failure *f);
/* Ends it. On failure nothing of it was done. */
bool belay__sqlite_store_commit(struct sqlite_store *s, struct sqlite_failure *f);
void belay__sqlite_store_rollback(struct sqlite_store *s);

/* The statement, prepared; NULL: f says why. Bind, step, then give it to _done or _run. */
sqlite3_stmt *belay__sqlite_store_statement(struct sqlite_store *s, enum sqlite_statement which,
                                            struct sqlite_failure *f);
/* Steps a statement that gives no rows to its end and resets it. */
bool belay__sqlite_store_run(struct sqlite_store *s, sqlite3_stmt *statement,
                             struct sqlite_failure *f);
/* After stepping by hand: resets; true when `rc` is ROW or DONE and the reset agrees. */
bool belay__sqlite_store_done(struct sqlite_store *s, sqlite3_stmt *statement, int rc,
                              struct sqlite_failure *f);
/* What SQLite's last answer means. Returns false. */
bool belay__sqlite_store_fail(struct sqlite_store *s, int rc, struct sqlite_failure *f);

bool belay__sqlite_store_look(struct sqlite_store *s, belay_str key, struct sqlite_row *row,
                              struct sqlite_failure *f);
/* Reads the columns of SQL_LOOK or SQL_LIST, which begin alike. */
void belay__sqlite_row_read(struct sqlite_row *row, sqlite3_stmt *statement);
/* Free: not there, expired, of another boot. (The dead-holder rule is not asked.) */
bool belay__sqlite_row_ended(const struct sqlite_row *row, const struct sqlite_self *self,
                             int64_t now_ns);
/* Ended, or its holder is provably gone. */
bool belay__sqlite_row_free(const struct sqlite_row *row, const struct sqlite_self *self,
                            int64_t now_ns);
void belay__sqlite_bind_key(sqlite3_stmt *statement, belay_str key);

/* ------------------------------------------------------------------ file */

struct sqlite_header {
    uint32_t application;
    int32_t boot_mark;
    bool wal; /* somebody else put it into that mode */
};

static inline bool belay__sqlite_busy(int rc)
{
    return (rc & 0xFF) == SQLITE_BUSY || (rc & 0xFF) == SQLITE_LOCKED;
}
int belay__sqlite_exec(struct sqlite_store *s, const char *sql);
bool belay__sqlite_file_create(struct sqlite_store *s, struct sqlite_failure *f);
/* Reads it; false where it is not that of a file of locks that we know. */
bool belay__sqlite_header_read(struct sqlite_store *s, struct sqlite_header *h,
                               struct sqlite_failure *f);
/* Was the file used in this boot already? */
bool belay__sqlite_header_current(const struct sqlite_store *s, const struct sqlite_header *h);
/* The first opening in a boot: the file is checked, and what was in it is gone. SQLite's result. */
int belay__sqlite_boot_begin(struct sqlite_store *s);

/* ------------------------------------------------------------------ wake */

/* A wait of this client that was refused. */
struct sqlite_waiter {
    belay_link link; /* among the wakes' waiters */
    belay_wait *wait;
    int64_t since_ns;
    bool stored;                /* its row is in the file */
    struct sqlite_watch *watch; /* the holder's process, or NULL */
    size_t length;
    char key[];
};

struct sqlite_wakes {
    belay_env *env;
    const struct sqlite_place *place;
    const struct sqlite_self *self;
    belay_link waiters;
    belay_link watches; /* of holders' processes: one pidfd for each, shared */
    unsigned watch_count;
    int receiver, sender; /* -1: not open */
    belay_watch watch;
    char socket[64]; /* the receiver's name in the file's directory; "" if there is none */
    bool tried;      /* making the receiver: once for each file */
    /* Somebody told us of a lock that none of our waits wants any more. */
    void (*stray)(struct sqlite_wakes *w, belay_str key);
};

enum sqlite_sent { SENT_OK, SENT_DEAD, SENT_NOT };

void belay__sqlite_wakes_init(struct sqlite_wakes *w, belay_env *env,
                              const struct sqlite_place *place, const struct sqlite_self *self,
                              void (*stray)(struct sqlite_wakes *w, belay_str key));
void belay__sqlite_wakes_fini(struct sqlite_wakes *w);
/* Makes the receiving socket if there is none. False: there can't be one, and waiting is by timers.
 */
bool belay__sqlite_wakes_listen(struct sqlite_wakes *w);
/* The file was replaced: its rows are gone, and the socket may be in another directory now. */
void belay__sqlite_wakes_moved(struct sqlite_wakes *w);
/* The waiter of this wait, made if it is missing; NULL: out of memory. */
struct sqlite_waiter *belay__sqlite_waiter_of(struct sqlite_wakes *w, belay_wait *wait,
                                              belay_str key);
void belay__sqlite_waiter_free(struct sqlite_wakes *w, struct sqlite_waiter *waiter);
/* Wakes the wait when the holder's process ends. */
void belay__sqlite_waiter_watch(struct sqlite_wakes *w, struct sqlite_waiter *waiter,
                                const struct sqlite_holder *holder);
/* Tells the waiter behind this socket that the lock is free. */
enum sqlite_sent belay__sqlite_wakes_send(struct sqlite_wakes *w, const char *socket, belay_str key,
                                          int64_t since_ns);

/* ------------------------------------------------------------------ the backend */

struct sqlite_backend {
    belay_backend base;
    struct sqlite_store store;
    struct sqlite_wakes wakes;
    belay_link grants;
    belay_link queue;  /* ops behind a busy file, oldest first */
    belay_link chores; /* what is done when there is time */
    unsigned chore_count;
    unsigned tries;  /* how often in a row the file was busy */
    int64_t late_ns; /* how late the last retry came */
    belay_timer retry;
    belay_task task;
};

/* Begins a transaction, having told the holders of its locks if the file was replaced. */
enum sqlite_turn belay__sqlite_begin(struct sqlite_backend *b, struct sqlite_failure *f);
/* Another process is in the file: the queue and the chores are tried again soon. */
void belay__sqlite_retry_arm(struct sqlite_backend *b);

/* ------------------------------------------------------------------ chore */

#define SQLITE_NEXT_MAX 4 /* waiters that one release reads */

/* The waiters that a release has read, told after its COMMIT. */
struct sqlite_next {
    int count;
    struct {
        int64_t since_ns;
        char socket[64];
    } at[SQLITE_NEXT_MAX];
};

bool belay__sqlite_next_read(struct sqlite_backend *b, belay_str key, struct sqlite_next *next,
                             struct sqlite_failure *f);
/* Tells the oldest that can be told. Not inside a transaction. */
void belay__sqlite_next_tell(struct sqlite_backend *b, belay_str key,
                             const struct sqlite_next *next);
/* Inside a transaction: deletes a waiter's row. */
bool belay__sqlite_waiter_delete(struct sqlite_backend *b, belay_str key, int64_t since_ns,
                                 const char *socket, struct sqlite_failure *f);
/* Soon: deletes a waiter's row, or (`pass`) tells the next waiter of that key if the lock is free.
 */
void belay__sqlite_chore_add(struct sqlite_backend *b, bool pass, belay_str key, int64_t since_ns,
                             const char *socket);
void belay__sqlite_chores_run(struct sqlite_backend *b);
void belay__sqlite_chores_drop(struct sqlite_backend *b);

/* ------------------------------------------------------------------ look */

/* These run inside a transaction, end it and settle. */
void belay__sqlite_inspect(struct sqlite_backend *b, belay_op *op, int64_t now_ns);
void belay__sqlite_list(struct sqlite_backend *b, belay_op *op, int64_t now_ns);
/* Inside a transaction, or with the reason why there is none. */
void belay__sqlite_diagnose(struct sqlite_backend *b, belay_op *op, const struct sqlite_failure *f);
void belay__sqlite_op_fail(struct sqlite_backend *b, belay_op *op, const struct sqlite_failure *f);

#endif
