#!/usr/bin/env bash
# Compares the DNS server with Knot DNS, dnsmasq and Unbound (local-data): the same 10,000 names, UDP on loopback, asked by dnsperf.
#
#     benches/dns.sh [rounds] [seconds]        # 5 and 4 unless told otherwise; OURS=dir/with/dns_server to skip the build
#
# One worker each, the server on one processor and dnsperf on another (SERVER_CPU and CLIENT_CPU, 0 and 1). The rounds go round
# the servers, so that a noisy neighbour hits all of them; the table has medians:
#   per CPU second  answered queries for each second of processor time (user and system) of the server's process
#   maximum         answered queries for each second at full load
#   p99             the 99th percentile of the latency at half of the server's own maximum
# BOOST=1 runs all of them before every other process (SCHED_FIFO): for a machine that others use, too.
# Prints a table, and one line of JSON. Needs knotd, dnsmasq, unbound and dnsperf (packages knot dnsmasq-base unbound dnsperf).
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${1:-5}
seconds=${2:-4}
server_cpu=${SERVER_CPU:-0}
client_cpu=${CLIENT_CPU:-1}
boost=()
[ -z "${BOOST:-}" ] || boost=(chrt -f 1)
for program in knotd dnsmasq unbound dnsperf taskset; do
    command -v "$program" >/dev/null || { echo "$program is needed: apt-get install knot dnsmasq-base unbound dnsperf" >&2; exit 1; }
done
if [ -z "${OURS:-}" ]; then
    cargo build --quiet --release -p mesh-benches --example dns_server
    OURS=${CARGO_TARGET_DIR:-target}/release/examples
fi

directory=$(mktemp -d)
pids=()
cleanup() {
    [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$directory"
}
trap cleanup EXIT
chmod 755 "$directory"
"$OURS/dns_server" files "$directory"

cat >"$directory/knot.conf" <<KNOT
server:
    rundir: "$directory"
    listen: 127.0.0.1@5302
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
database:
    storage: "$directory"
log:
  - target: "$directory/knot.log"
    any: warning
zone:
  - domain: cluster.local
    file: "$directory/knot.zone"
    zonefile-sync: -1
    journal-content: none
KNOT
cat >>"$directory/unbound.conf" <<UNBOUND
    interface: 127.0.0.1@5304
    do-daemonize: no
    use-syslog: no
    logfile: "$directory/unbound.log"
    chroot: ""
    username: ""
    pidfile: ""
    directory: "$directory"
    num-threads: 1
    module-config: "iterator"
UNBOUND

declare -A port=([landbridge]=5301 [knot]=5302 [dnsmasq]=5303 [unbound]=5304)
declare -A pid
servers=(landbridge knot dnsmasq unbound)
start() {
    local server=$1
    shift
    "${boost[@]}" taskset -c "$server_cpu" "$@" >"$directory/$server.out" 2>&1 &
    pid[$server]=$!
    pids+=($!)
}
start landbridge "$OURS/dns_server" serve 127.0.0.1:5301 1
start knot knotd -c "$directory/knot.conf"
start dnsmasq dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --addn-hosts="$directory/dnsmasq.hosts" \
    --local=/cluster.local/ --local-ttl=5 --port=5303 --listen-address=127.0.0.1 --bind-interfaces --pid-file= --user=root
start unbound unbound -d -c "$directory/unbound.conf"

# Asks a server; the rest is for dnsperf.
ask() {
    "${boost[@]}" taskset -c "$client_cpu" dnsperf -s 127.0.0.1 -p "${port[$1]}" -d "$directory/queries.txt" -c 16 -T 1 -t 1 "${@:2}"
}
for server in "${servers[@]}"; do
    deadline=$((SECONDS + 30))
    until ask "$server" -n 1 -l 1 2>/dev/null | grep -q 'Response codes: .*NOERROR'; do
        if [ $SECONDS -ge $deadline ] || ! kill -0 "${pid[$server]}" 2>/dev/null; then
            echo "$server does not answer:" >&2
            cat "$directory/$server.out" >&2
            exit 1
        fi
    done
done

# The processor time of a process, in clock ticks.
ticks() { awk '{ sub(/^.*\) /, ""); print $12 + $13 }' "/proc/$1/stat"; }
hertz=$(getconf CLK_TCK)

for ((round = 1; round <= rounds; round++)); do
    for server in "${servers[@]}"; do
        before=$(ticks "${pid[$server]}")
        ask "$server" -q 256 -l "$seconds" >"$directory/out"
        after=$(ticks "${pid[$server]}")
        answered=$(awk '/Queries completed/ { print $3 }' "$directory/out")
        rate=$(awk '/Queries per second/ { print int($4) }' "$directory/out")
        used=$(awk -v t=$((after - before)) -v h="$hertz" 'BEGIN { print t / h }')
        # Few at a time: dnsperf catches up in bursts, and a burst of 256 measures its own queue.
        ask "$server" -q 32 -l "$seconds" -Q $((rate / 2)) -v >"$directory/out"
        # "> NOERROR name type seconds"
        p99=$(awk '$1 == ">" { print $NF * 1e6 }' "$directory/out" | sort -n |
            awk '{ a[NR] = $1 } END { print (NR ? a[int((NR - 1) * 0.99) + 1] : -1) }')
        awk -v s="$server" -v n="$answered" -v u="$used" -v r="$rate" -v p="$p99" -v d="$seconds" \
            'BEGIN { printf "%s %.0f %d %.0f %.2f\n", s, (u > 0 ? n / u : 0), r, p, u / d }' | tee -a "$directory/results" >&2
    done
done

median() { awk -v s="$1" -v c="$2" '$1 == s { print $c }' "$directory/results" | sort -n | awk '{ a[NR] = $1 } END { print a[int((NR + 1) / 2)] }'; }
knot=$(median knot 2)
echo
printf '%-12s %16s %10s %12s %10s %8s\n' server 'per CPU second' 'vs Knot' maximum/s 'p99 µs' 'CPU'
json=
for server in "${servers[@]}"; do
    efficiency=$(median "$server" 2) maximum=$(median "$server" 3) p99=$(median "$server" 4) cpu=$(median "$server" 5)
    ratio=$(awk -v a="$efficiency" -v b="$knot" 'BEGIN { printf "%.2f", a / b }')
    printf '%-12s %16s %10s %12s %10s %8s\n' "$server" "$efficiency" "$ratio" "$maximum" "$p99" "$cpu"
    json+="${json:+,}\"$server\":{\"queries_per_cpu_second\":$efficiency,\"vs_knot\":$ratio,\"maximum_per_second\":$maximum,\"p99_us_at_half\":$p99,\"cpu\":$cpu}"
done
echo "{\"rounds\":$rounds,\"seconds\":$seconds,$json}"
