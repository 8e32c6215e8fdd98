"""The pair of config files that `farshore init` writes.

config/primary.toml and config/remote.toml are the same texts; a test holds them
together.
"""

PRIMARY_TOML = """\
# The primary site: serves volumes to hosts over NBD and sends them to the remote.
# Every key and its default: docs/reference/config.md. Check: farshore config check
# FILE. Relative paths start at this file's folder.

[site]
name = "amsterdam"
state_dir = "/var/lib/farshore/primary"
control_socket = "/run/farshore/primary.sock"

[nbd]
# Whoever can connect can read and write every volume, unless access rules say else.
listen = ["unix:/run/farshore/nbd.sock", "tcp:127.0.0.1:10809"]

# Who connects to a socket file: mode, owner and group. docs/operating/nbd-access.md
# has the commands for certificates and says how rules are read.
# [nbd.unix]
# mode = "0660"
# group = "farshore"

# For addresses like "tls:0.0.0.0:10809" and "systemd+tls:nbd-tls".
# [nbd.tls]
# ca = "/etc/farshore/ca-cert.pem"
# cert = "/etc/farshore/nbd-cert.pem"
# key = "/etc/farshore/nbd-key.pem"

# An export that no rule governs is open to all who can connect.
# [[nbd.access]]
# exports = ["orders/data"] # and its cuts and recovery points
# certificates = ["host-1.example.net"]
# users = ["root"]
# allow = "rw"

# Metrics for Prometheus, health, status: for this machine only, for nobody is asked who
# they are. docs/operating/monitor.md
# [http]
# listen = "127.0.0.1:9464"

# Traces of cycles for an OpenTelemetry collector; needs the extra farshore[otel].
# [tracing]
# endpoint = "http://127.0.0.1:4318"

# Volumes of a group are cut together: one recovery point holds all of them as they
# were at one moment.
[[group]]
name = "orders"
rpo = "5s" # or one of: interval, changed, schedule, manual
# hold_max = "50ms"
# hold_retries = 5
# resume_timeout = "10m"

# Programs that have applications settle for a cut: docs/operating/consistency.md
# [group.hooks]
# before_cut = ["/etc/farshore/hooks/fsfreeze.sh", "root@app1:/srv/orders"]
# after_cut = ["/etc/farshore/hooks/fsfreeze.sh", "root@app1:/srv/orders"]
# timeout = "10s"
# on_failure = "alarm" # or: skip, cut

[group.link]
remotes = ["dr.example.net:7420"] # several addresses are several links
connections = 2
peer = "dr" # the name in the remote's [site], and in its certificate
# Made by `farshore init`, or by docs/operating/replication-security.md. On a private
# network, instead, at both sites: allow_plaintext_replication = true
tls = { ca = "replication-ca.pem", cert = "amsterdam.pem", key = "amsterdam.key" }
# compression = "auto"
# profile = "custom" # or: t1, t3, channel, escon, fibre-channel
# bandwidth = "40MiB/s"
# bandwidth_schedule = ["Mon-Fri 08:00-18:00 10MiB/s"] # UTC
# seed = "checksum"              # the remote's devices hold a copy: send what differs

[group.flashcopy]
# Grows by what hosts overwrite while a cycle drains.
directory = "/var/lib/farshore/flashcopy"

[[group.volume]]
name = "data"
device = "/var/lib/farshore/data.img" # created sparse when absent, or a block device
size = "100GiB"
# track_size = "auto"
# region_size = "4MiB"
# hot_regions_max = 4096
"""

REMOTE_TOML = """\
# The remote site: receives groups and serves their newest recovery points.
# Every key and its default: docs/reference/config.md. Check: farshore config check
# FILE. Relative paths start at this file's folder.

[site]
name = "dr"
state_dir = "/var/lib/farshore/remote"
control_socket = "/run/farshore/remote.sock"

[replication]
listen = ["tcp:0.0.0.0:7420"]
# Made by `farshore init`, or by docs/operating/replication-security.md. On a private
# network, instead, at both sites: allow_plaintext_replication = true
tls = { ca = "replication-ca.pem", cert = "dr.pem", key = "dr.key" }

[nbd]
listen = ["unix:/run/farshore/recovery.sock"] # read-only recovery points

# Who connects to a socket file: mode, owner and group. docs/operating/nbd-access.md
# has the commands for certificates and says how rules are read.
# [nbd.unix]
# mode = "0660"
# group = "farshore"

# For addresses like "tls:0.0.0.0:10809" and "systemd+tls:nbd-tls".
# [nbd.tls]
# ca = "/etc/farshore/ca-cert.pem"
# cert = "/etc/farshore/nbd-cert.pem"
# key = "/etc/farshore/nbd-key.pem"

# An export that no rule governs is open to all who can connect.
# [[nbd.access]]
# exports = ["orders/data"] # and its cuts and recovery points
# certificates = ["host-1.example.net"]
# users = ["root"]
# allow = "ro"

# Metrics for Prometheus, health, status: for this machine only, for nobody is asked who
# they are. docs/operating/monitor.md
# [http]
# listen = "127.0.0.1:9464"

# Traces of cycles for an OpenTelemetry collector; needs the extra farshore[otel].
# [tracing]
# endpoint = "http://127.0.0.1:4318"

[[group]]
name = "orders"
peer = "amsterdam" # the name in the primary's [site], and in its certificate
# Which recovery points stay beside the newest. docs/operating/recovery-points.md
# retain = ["all for 1h", "1 per 1h for 1d", "1 per 1d for 7d"]

[group.journal]
# Grows by what is overwritten since the oldest recovery point kept.
directory = "/var/lib/farshore/journal"
# limit = "200GiB"               # of all of them; at 90 % the oldest points go
# pins = "hard"                  # pinned points stay, and nothing more is applied

[group.scrub]
# Reads journals and devices back. Five cron fields in UTC.
# schedule = "0 3 * * 0"
# rate = "50MiB/s"

[group.test_copies]
# What is written to test copies, and the room that they leave to others there.
# directory = "/var/lib/farshore/test-copies"
# reserve = "1GiB"

[[group.volume]]
name = "data"
# Created sparse, with the primary's size, when absent; or a block device.
device = "/var/lib/farshore/data.img"
# accept_existing = true         # it holds data, which may be replaced
"""
