# ROOT GROUP AGENT CTL: boots systemd as the first process of a machine of its own, in new namespaces. Its root is in
# memory; of this machine it sees /usr, read-only, and nothing that it could change.
set -eu
root=$1 group=$2 agent=$3 ctl=$4
if [ "${5:-}" != inside ]; then
  echo $$ >"$group/cgroup.procs"
  exec unshare --mount --propagation private --pid --fork --kill-child --cgroup --uts --ipc --net \
    sh "$0" "$root" "$group" "$agent" "$ctl" inside
fi
ip link set lo up
mount -t tmpfs -o mode=755 root "$root"
cd "$root"
mkdir dev etc old opt proc root run sys tmp usr var var/lib etc/systemd etc/systemd/system
cp "$agent" opt/hive-agent
cp "$ctl" opt/hivectl
mount --bind /usr usr
mount -o remount,bind,ro usr
for folder in bin sbin lib lib32 lib64; do
  if [ -L "/$folder" ]; then cp -P "/$folder" .; fi
done
mount -t tmpfs -o mode=755 local usr/local
mkdir usr/local/bin
# None of this system's own units: they would set up a machine that has been set up long ago.
mount -t tmpfs -o mode=755 units usr/lib/systemd/system
for target in sysinit basic shutdown multi-user network-online; do
  printf '[Unit]\nDefaultDependencies=no\n' >"usr/lib/systemd/system/$target.target"
done
cp /etc/ld.so.cache etc/
echo root:x:0:0:root:/root:/bin/sh >etc/passwd
echo root:x:0: >etc/group
echo 0123456789abcdef0123456789abcdef >etc/machine-id
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 dev dev
for device in null zero full random urandom; do
  : >"dev/$device"
  mount --bind "/dev/$device" "dev/$device"
done
pivot_root . old
umount -l /old
exec env -i container=hive PATH=/usr/sbin:/usr/bin:/sbin:/bin /usr/lib/systemd/systemd --system \
  --unit=multi-user.target --log-target=console --show-status=no
