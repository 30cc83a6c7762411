"""belay run on a terminal: job control as a person sees it, through a pseudo-terminal and a real shell.

Run by terminal.sh. Each test_* function is one promise; it gets a Session: an interactive bash."""
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time

BELAY = os.environ["BELAY_BIN"]
PATIENCE = 20.0  # how long a condition may take; none is decided by a sleep


class Failure(Exception):
    pass


class Session:
    """A shell on a pseudo-terminal: send keys, wait for what appears."""

    def __init__(self, folder, argv=("bash", "--norc", "--noprofile", "-i")):
        self.folder = folder
        self.seen = ""
        self.at = 0
        env = {
            "PATH": os.environ["PATH"],
            "HOME": folder,
            "TERM": "xterm",
            "PS1": "ready> ",
            "LC_ALL": "C",
            "B": BELAY + " --config " + os.environ.get("WHERE", "sqlite://" + folder + "/locks.db"),
        }
        for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS"):
            if name in os.environ:
                env[name] = os.environ[name]
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execvpe(argv[0], argv, env)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
        self.expect("ready> ")

    def send(self, keys):
        os.write(self.fd, keys.encode())

    def line(self, text):
        self.send(text + "\n")

    def expect(self, pattern):
        """Waits until `pattern` appears after what was matched before."""
        end = time.monotonic() + PATIENCE
        while True:
            match = re.compile(pattern, re.S).search(self.seen, self.at)
            if match:
                self.at = match.end()
                return match
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.fd], [], [], left)[0]:
                raise Failure("no %r in %r" % (pattern, self.seen[self.at:]))
            try:
                self.seen += os.read(self.fd, 65536).decode("utf-8", "replace")
            except OSError:
                raise Failure("the terminal closed; it showed %r" % self.seen[self.at:])

    def run(self, command, expected_status):
        """Runs a whole command and checks its status."""
        self.line(command + "; echo status=$?=")
        status = int(self.expect(r"status=(\d+)=").group(1))
        self.expect("ready> ")
        if status != expected_status:
            raise Failure("%s: status %d, not %d" % (command, status, expected_status))

    def path(self, name):
        return os.path.join(self.folder, name)

    def wait_for(self, what, condition):
        end = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > end:
                raise Failure("never: " + what)
            time.sleep(0.005)

    def close(self):
        os.kill(self.pid, signal.SIGHUP)
        os.close(self.fd)
        os.waitpid(self.pid, 0)


def stopped(pid):
    with open("/proc/%d/stat" % pid) as stat:
        return stat.read().rsplit(")", 1)[1].split()[0] == "T"


def test_the_command_reads_the_terminal(s):
    s.line("$B run x -- sh -c 'echo asks; read word; echo got:$word'")
    s.expect("asks\r\n")
    s.line("hello")
    s.expect("got:hello")
    s.expect("ready> ")


def test_a_script_gets_the_terminal_back(s):
    with open(s.path("script"), "w") as script:
        script.write("for c in true 'kill -9 $$' /does/not/exist; do $B run x -- sh -c \"$c\"; done\n"
                     "$B run x -- /does/not/exist; $B run -t 1ms x -- true; $B run '' -- true\n"
                     "echo asks; read word; echo got:$word\n")
    s.line("bash script")
    s.expect("asks\r\n")
    s.line("word")
    s.expect("got:word")
    s.expect("ready> ")


def test_a_killed_command_leaves_the_terminal_as_it_was(s):
    s.run("$B run x -- sh -c 'stty raw -echo; kill -9 $$'", 137)
    s.line("stty | grep -c -e '-echo$'; echo e''nd")
    s.expect("0\r\nend")


def test_ctrl_c_ends_the_command_and_frees_the_lock(s):
    s.line("$B run x -- sh -c 'echo on; exec sleep 100'")
    s.expect("on\r\n")
    s.send("\x03")
    s.expect("ready> ")
    s.run("(exit $?)", 130)
    s.run("$B run -n x -- true", 0)


def test_ctrl_c_can_be_handled_by_the_command(s):
    s.line("$B run x -- sh -c 'trap \"echo caught; exit 7\" INT; echo on; sleep 5 & wait'")
    s.expect("on\r\n")
    s.send("\x03")
    s.expect("caught")
    s.expect("ready> ")
    s.run("(exit $?)", 7)


def test_ctrl_c_ends_the_script_around_it(s):
    with open(s.path("loop"), "w") as script:
        script.write("for i in 1 2 3; do $B run x -- sh -c 'echo round; exec sleep 100'; done; echo over\n")
    s.line("bash loop; echo after")
    s.expect("round\r\n")
    s.send("\x03")
    s.expect("ready> ")
    if "over" in s.seen[s.at - 200:] or s.seen.count("round\r\n") != 1:
        raise Failure("the script went on: %r" % s.seen)


def test_ctrl_c_while_waiting_gives_up(s):
    s.line("$B run x -- sleep 100 &")
    s.expect("ready> ")
    s.wait_for("x is held", lambda: held(s, "x"))
    s.line("$B run x -- echo never")
    s.expect("waiting .*sleep")
    s.send("\x03")
    s.expect("ready> ")
    s.run("(exit $?)", 130)
    s.run("kill %1; wait", 0)


def where(s):
    return os.environ.get("WHERE", "sqlite://" + s.folder + "/locks.db")


def held(s, name):
    out = subprocess.run([BELAY, "--config", where(s), "status", name], capture_output=True, text=True)
    return "held by" in out.stdout


def test_a_long_wait_shows_who_holds_it(s):
    s.line("$B run --label 'carol: tape' x -- sleep 100 &")
    s.expect("ready> ")
    s.wait_for("x is held", lambda: held(s, "x"))
    s.line("$B run x -- echo mine")
    s.expect(r"belay: x: waiting [0-9]s; held by carol: tape \(pid \d+\) for [0-9]+s")
    s.line("")
    s.wait_for("the holder", lambda: held(s, "x"))
    subprocess.run(["pkill", "-P", str(s.pid), "--oldest"], check=True)
    s.expect(r"\r\x1b\[Kmine")
    s.expect("ready> ")


def test_ctrl_z_stops_and_fg_goes_on(s):
    s.line("$B run -t 30s x -- sh -c 'echo $$ >pid; read word; echo got:$word'")
    s.wait_for("the command runs", lambda: os.path.exists(s.path("pid")) and os.path.getsize(s.path("pid")))
    s.send("\x1a")
    s.expect("Stopped")
    s.expect("ready> ")
    pid = int(open(s.path("pid")).read())
    if not stopped(pid):
        raise Failure("the command was not stopped")
    s.run("$B run -n x -- true", 75)
    s.line("fg")
    s.expect("run -t 30s x")
    s.line("again")
    s.expect("got:again")
    s.expect("ready> ")
    s.run("(exit $?)", 0)


def test_ctrl_z_in_a_script_stops_the_whole_job(s):
    with open(s.path("script"), "w") as script:
        script.write("$B run -t 30s x -- sh -c 'echo on; read word; echo got:$word'\necho end\n")
    s.line("bash script")
    s.expect("on\r\n")
    s.send("\x1a")
    s.expect("Stopped")
    s.expect("ready> ")
    s.line("fg")
    s.expect("bash script")
    s.line("word")
    s.expect("got:word.*end")
    s.expect("ready> ")


def test_after_fg_a_lost_lock_ends_the_command(s):
    s.line("$B run -t 1s x -- sh -c 'echo $$ >pid; while :; do read word; echo alive; done'")
    s.wait_for("the command runs", lambda: os.path.exists(s.path("pid")) and os.path.getsize(s.path("pid")))
    s.send("\x1a")
    s.expect("Stopped")
    s.expect("ready> ")
    s.wait_for("x is free", lambda: not held(s, "x"))
    s.line("fg")
    s.expect("the lock is lost")
    s.expect("ready> ")
    s.run("(exit $?)", 79)
    if "\r\nalive" in s.seen:
        raise Failure("the command went on")


def test_in_the_background_it_stops_for_input_and_fg_helps(s):
    s.line("$B run -t 30s x -- sh -c 'read word; echo got:$word' &")
    s.expect("ready> ")
    wrapper = int(re.search(r"\[1\] (\d+)", s.seen).group(1))
    s.wait_for("belay is stopped", lambda: stopped(wrapper))
    s.line("fg")
    s.expect("run -t 30s x")
    s.line("here")
    s.expect("got:here")
    s.expect("ready> ")


def test_bg_lets_it_go_on_without_the_terminal(s):
    # No forking while Ctrl-Z comes: a shell inside its vfork() can't be stopped, belay or not.
    os.mkfifo(s.path("go"))
    s.line("$B run -t 30s x -- sh -c 'echo $$ >pid; read word <go; touch ended'")
    s.wait_for("the command runs", lambda: os.path.exists(s.path("pid")) and os.path.getsize(s.path("pid")))
    s.send("\x1a")
    s.expect("Stopped")
    s.expect("ready> ")
    s.line("bg")
    s.expect("ready> ")
    s.wait_for("it goes on", lambda: not stopped(int(open(s.path("pid")).read())))
    s.run("echo >go; wait", 0)
    s.wait_for("it ended", lambda: os.path.exists(s.path("ended")))


def test_a_pager_in_the_pipeline_keeps_the_terminal(s):
    os.mkfifo(s.path("go"))
    s.line("$B run x -- sh -c 'echo page; read word <go' | "
           "(read page; echo reads; read word </dev/tty; echo got:$word; echo >go)")
    s.expect("reads\r\n")
    s.line("key")
    s.expect("got:key")
    s.expect("ready> ")


def test_in_a_pipeline_the_command_gets_the_terminal_when_it_asks(s):
    s.line("$B run x -- sh -c 'read word </dev/tty; echo got:$word' | cat")
    s.line("key")
    s.expect("got:key")
    s.expect("ready> ")


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_after_ctrl_s_a_lost_lock_ends_the_command(s):
    s.line("$B run -t 600ms x -- sh -c 'echo $$ >pid; exec sleep 100'")
    s.wait_for("the command runs", lambda: os.path.exists(s.path("pid")) and os.path.getsize(s.path("pid")))
    pid = int(open(s.path("pid")).read())
    s.send("\x13")
    subprocess.run([BELAY, "--config", where(s), "break", "--yes", "x"], check=True, capture_output=True)
    s.wait_for("the command is gone", lambda: gone(pid))
    s.send("\x11")
    s.expect("ready> ")
    s.run("(exit $?)", 79)


def test_after_ctrl_s_a_wait_goes_on(s):
    os.mkfifo(s.path("go"))
    s.line("$B run x -- sleep 100 &")
    s.expect("ready> ")
    s.wait_for("x is held", lambda: held(s, "x"))
    s.line("read word <go; $B run x -- touch ran")
    s.expect("touch ran\r\n")
    with open(s.path("go"), "w") as go:
        s.send("\x13")
        go.write("word\n")
    began = time.monotonic()
    s.wait_for("the time of the first line", lambda: time.monotonic() > began + 1.5)
    subprocess.run(["pkill", "-P", str(s.pid), "--oldest"], check=True)
    s.wait_for("the command runs", lambda: os.path.exists(s.path("ran")))
    s.send("\x11")
    s.expect("ready> ")


def test_break_asks(s):
    s.line("$B run x -- sleep 100 &")
    s.expect("ready> ")
    s.wait_for("x is held", lambda: held(s, "x"))
    s.line("$B break x")
    s.expect(r"held by .*break it\?.*\[y/N\]")
    s.line("n")
    s.expect("left alone")
    s.expect("ready> ")
    s.run("$B break -q x <<<y", 64)
    s.line("$B break x")
    s.expect(r"\[y/N\]")
    s.line("y")
    s.expect("broken")
    s.expect("ready> ")
    s.run("$B run -n x -- true", 0)
    s.run("kill %1; wait", 0)


def main(names):
    failed = 0
    tests = [n for n in globals() if n.startswith("test_") and (not names or n[5:] in names)]
    for name in tests:
        with tempfile.TemporaryDirectory(prefix="belay-cli-") as folder:
            session = None
            try:
                session = Session(folder)
                globals()[name](session)
                print("ok", name[5:], flush=True)
            except (Failure, OSError, subprocess.SubprocessError) as why:
                failed += 1
                print("not ok", name[5:], "-", why, flush=True)
                if session:
                    print("# seen: %r" % session.seen, flush=True)
            finally:
                if session:
                    session.close()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
