#!/usr/bin/env bash
# Turn an instance into the image that LUMOS_CLOUD names as `ami`: the lock's virtual environment,
# and nothing of LUMOS itself, which comes with each job. Run it as root on an instance of AWS's
# Deep Learning Base GPU AMI (Ubuntu 22.04 or 24.04: it brings the NVIDIA driver):
#
#   sudo ./ami.sh requirements.txt
#
# then stop the instance and make the image (docs/aws.md, step 5). Running it twice does no harm.
set -euo pipefail

lock=${1:?"give the path of requirements.txt: sudo ./ami.sh requirements.txt"}
root=/opt/lumos
[ "$(id -u)" -eq 0 ] || { echo "run it as root: sudo $0 $lock" >&2; exit 2; }
[ -f "$lock" ] || { echo "$lock is no file: give the path of requirements.txt" >&2; exit 2; }
[ "$(uname -m)" = x86_64 ] || { echo "the lock is made for x86_64, this is $(uname -m)" >&2; exit 2; }

# libgomp1 is LightGBM's OpenMP runtime. Upgrades by night must not restart what trains.
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends libgomp1 python3-venv
systemctl disable --now apt-daily.timer apt-daily-upgrade.timer unattended-upgrades.service || true

# The installer comes from the lock too, hash and all; Python 3.11 comes with the installer, because
# no Ubuntu that has the driver has that Python.
install -d "$root" "$root/home"
installer=$(mktemp -d)
trap 'rm -rf "$installer"' EXIT
python3 -m venv "$installer"
awk '/^uv==/ {on=1} on {print} on && !/\\$/ {exit}' "$lock" > "$installer/uv.txt"
"$installer/bin/pip" install --quiet --require-hashes -r "$installer/uv.txt"
export UV_PYTHON_INSTALL_DIR=$root/python
"$installer/bin/uv" python install 3.11
[ -x "$root/venv/bin/python" ] || "$installer/bin/uv" venv --python 3.11 --managed-python "$root/venv"
"$installer/bin/uv" pip sync --python "$root/venv/bin/python" --require-hashes --compile-bytecode "$lock"
# Every job compares it with the lock of the deployment.
install -m 644 "$lock" "$root/requirements.txt"

# LUMOS_HOME lies on the instance's own NVMe disk where there is one: AWS's image mounts those at
# /opt/dlami/nvme; on another image the first empty one is taken.
cat > "$root/mount-home" <<'END'
#!/usr/bin/env bash
set -euo pipefail
home=/opt/lumos/home
mountpoint -q "$home" && exit 0
blkid -L lumos-home > /dev/null && exec mount -o noatime LABEL=lumos-home "$home"
if mountpoint -q /opt/dlami/nvme; then
  mkdir -p /opt/dlami/nvme/lumos
  exec mount --bind /opt/dlami/nvme/lumos "$home"
fi
for disk in /dev/disk/by-id/nvme-Amazon_EC2_NVMe_Instance_Storage_*; do
  [ -b "$disk" ] || continue
  if ! blkid "$disk" > /dev/null; then
    mkfs.ext4 -q -E nodiscard -L lumos-home "$disk"
    exec mount -o noatime "$disk" "$home"
  fi
done
echo "no instance store: $home lies on the root volume"
END
chmod 755 "$root/mount-home"
cat > /etc/systemd/system/lumos-home.service <<'END'
[Unit]
Description=Put LUMOS_HOME on the instance's own disk
After=dlami-nvme.service local-fs.target
# No command may come before.
Before=amazon-ssm-agent.service snap.amazon-ssm-agent.amazon-ssm-agent.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/opt/lumos/mount-home

[Install]
WantedBy=multi-user.target
END
systemctl daemon-reload
systemctl enable lumos-home.service

# Commands come by Systems Manager: without its agent the image is of no use.
systemctl is-enabled --quiet snap.amazon-ssm-agent.amazon-ssm-agent.service \
  || systemctl is-enabled --quiet amazon-ssm-agent.service \
  || { echo "the SSM agent is missing: snap install amazon-ssm-agent --classic" >&2; exit 1; }

"$root/venv/bin/python" - <<'END'
import boto3, pyarrow, torch

print(f"torch {torch.__version__}, CUDA {torch.version.cuda}, {torch.cuda.device_count()} GPUs here")
END
sha256sum "$root/requirements.txt"
