# SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause
#
# Sets two zcnic ports up in a virtme-ng guest, and describes them to the kernel's selftests.
# The netdev CI's executor reads it with `.` (setup= of its configuration), so that the exported
# variables stay. It expects the kernel tree as the current directory, as vng leaves it.
#
# ZCNIC: the directory of the driver's sources, images/driver of a zcnic checkout.

: "${ZCNIC:=/opt/zcnic/driver}"

# The driver, compiled for the kernel that runs. The tree may be read-only here; /tmp is not.
rm -rf /tmp/zcnic.build && cp -r "$ZCNIC" /tmp/zcnic.build
if make -s -C "$PWD" M=/tmp/zcnic.build modules >/tmp/zcnic.build/log 2>&1; then
    # virtio_net takes the ports first if it is built in; they are given to zcnic below.
    insmod /tmp/zcnic.build/zcnic.ko
else
    cat /tmp/zcnic.build/log
    echo "Error: zcnic.ko does not compile for $(uname -r)"
fi

# Ports have MAC addresses that begin with 5a:43:4e. virtio_net gives up those that it has.
for mac in /sys/bus/virtio/drivers/virtio_net/virtio*/net/*/address; do
    [ -e "$mac" ] || continue
    case $(cat "$mac") in
    5a:43:4e:*)
        device=${mac%/net/*}
        device=${device##*/}
        echo "$device" >/sys/bus/virtio/drivers/virtio_net/unbind
        echo "$device" >/sys/bus/virtio/drivers/zcnic/bind
        ;;
    esac
done

zcnic_port() {
    for mac in /sys/class/net/*/address; do
        if [ "$(cat "$mac")" = "$1" ]; then
            mac=${mac%/address}
            echo "${mac##*/}"
        fi
    done
}
IFC0=$(zcnic_port 5a:43:4e:00:00:01)
IFC1=$(zcnic_port 5a:43:4e:00:00:02)
if [ -z "$IFC0" ] || [ -z "$IFC1" ]; then
    echo "Error: there are no two zcnic ports"
fi

ip netns add ns-remote
ip -netns ns-remote link set dev lo up
ip link set dev "$IFC1" netns ns-remote
# Disruptive tests take the port down, and its addresses have to stay.
sysctl -q -w "net.ipv6.conf.$IFC0.keep_addr_on_down=1"
ip                  link set dev "$IFC0" up
ip -netns ns-remote link set dev "$IFC1" up
ip                  addr add dev "$IFC0" 192.0.2.1/24
ip -netns ns-remote addr add dev "$IFC1" 192.0.2.2/24
ip                  addr add dev "$IFC0" 2001:db8::1/64 nodad
ip -netns ns-remote addr add dev "$IFC1" 2001:db8::2/64 nodad
# The prefix behind the port, for the tests of netkit devices.
ip -netns ns-remote -6 route add 2001:db8:2::/64 via 2001:db8::1

# Memory of the tests of memory providers.
echo 64 >/proc/sys/vm/nr_hugepages

export NETIF=$IFC0
export LOCAL_V4=192.0.2.1
export LOCAL_V6=2001:db8::1
export LOCAL_PREFIX_V6=2001:db8:2::/64
export REMOTE_V4=192.0.2.2
export REMOTE_V6=2001:db8::2
export REMOTE_TYPE=netns
export REMOTE_ARGS=ns-remote

# Until both have a carrier.
for wait in 1 2 3 4 5 6 7 8 9 10; do
    [ "$(cat "/sys/class/net/$IFC0/carrier" 2>/dev/null)" = 1 ] && break
    sleep 1
done
ethtool -i "$NETIF" | head -1
