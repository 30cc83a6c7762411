/* wait_display.c - one line on the terminal, while we wait. A short wait shows nothing and costs
 * one reading of the clock. */
#include "wait_display.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "message.h"

enum { FIRST_MS = 1000, TICK_MS = 1000, LOOK_MS = 5000 };

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void wait_display_init(struct wait_display *display, const struct args *args)
{
    memset(display, 0, sizeof(*display));
    display->name = args->words[0];
    display->off = args->quiet;
    display->verbose = args->verbose;
    display->started_ms = now_ms();
    display->next_ms = display->started_ms + FIRST_MS;
}

int wait_display_timeout(const struct wait_display *display)
{
    if (display->off) return -1;
    int64_t left = display->next_ms - now_ms();
    return left > 0 ? (int)left : 0;
}

static void look(struct wait_display *display, belay *client, int64_t now)
{
    belay_error err = BELAY_ERROR_INIT;
    if (display->looked_ms != 0 && now - display->looked_ms < LOOK_MS) return;
    display->holder.size = (uint32_t)sizeof(display->holder);
    display->known = belay_inspect(client, display->name, &display->holder, &err) == BELAY_OK &&
                     display->holder.held;
    display->looked_ms = now;
}

static size_t columns(void)
{
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
    return size.ws_col;
}

void wait_display_draw(struct wait_display *display, belay *client)
{
    int64_t now = now_ms();
    if (display->off || now < display->next_ms) return;
    bool terminal = isatty(STDERR_FILENO) == 1;
    if (!terminal && !display->verbose) {
        display->off = true;
        return;
    }
    look(display, client, now);
    now = now_ms();

    struct text text;
    text_init(&text);
    text_add(&text, "waiting ");
    text_add_span(&text, now - display->started_ms);
    if (display->known) {
        belay_info holder = display->holder; /* as it is by now */
        if (holder.held_ms >= 0) holder.held_ms += now - display->looked_ms;
        text_add(&text, "; held by ");
        text_add_holder(&text, &holder);
    }
    if (!terminal) {
        say_text(display->name, &text);
        display->off = true;
        return;
    }

    struct text line;
    text_init(&line);
    text_add(&line, "belay: ");
    text_add_shown(&line, display->name);
    text_add(&line, ": %s", text.data);
    text_cut(&line, columns() - 1);
    text_init(&text);
    text_add(&text, "\r%s\033[K", line.data);
    display->shown = message_write(text.data, text.length) || display->shown;
    display->next_ms += TICK_MS;
    if (display->next_ms <= now) display->next_ms = now + TICK_MS;
}

void wait_display_clear(struct wait_display *display)
{
    if (!display->shown) return;
    display->shown = false;
    (void)message_write("\r\033[K", 4);
}
