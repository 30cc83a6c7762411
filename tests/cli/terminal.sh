# Job control on a terminal: the tests are in terminal.py, which plays the person.
: "${BELAY_BIN:?is the path of belay}"
command -v python3 >/dev/null || { echo "python3 is missing"; exit 77; }
exec python3 "$(dirname "$0")/terminal.py" "$@"
