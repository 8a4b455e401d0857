// SPDX-License-Identifier: GPL-2.0-only
/* Attaching XDP programs, and the MTU that they allow. */
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/if_vlan.h>

#include "zcnic_command.h"
#include "zcnic_queue.h"
#include "zcnic_xdp.h"

/* Bytes of a frame that one buffer holds */
#define ZCNIC_XDP_ROOM							\
	(ZCNIC_LINEAR_SIZE(ZCNIC_LINEAR_XDP_TRUESIZE - ZCNIC_XDP_HEADROOM) - \
	 sizeof(struct zcnic_rx_header))
/* The MTU for programs that don't handle more than one buffer */
#define ZCNIC_XDP_MAX_MTU	(ZCNIC_XDP_ROOM - ETH_HLEN - VLAN_HLEN)

/*
 * Give receive queues buffers that programs can use. Programs see frames as
 * they were on the wire: zcnic_fix_features() looks at zn->xdp.
 */
static int zcnic_xdp_enter(struct zcnic *zn)
{
	int err = 0;

	zn->xdp = true;
	zcnic_update_features(zn);
	if (netif_running(zn->dev))
		err = zcnic_pairs_reconfigure(zn, zn->rx_pending, zn->split,
					      zn->hds_thresh);
	if (!err)
		return 0;
	zn->xdp = false;
	zcnic_update_features(zn);
	return err;
}

static bool zcnic_xdp_mtu_valid(const struct bpf_prog *prog, unsigned int mtu)
{
	return !prog || prog->aux->xdp_has_frags || mtu <= ZCNIC_XDP_MAX_MTU;
}

static int zcnic_xdp_setup(struct zcnic *zn, struct bpf_prog *prog,
			   struct netlink_ext_ack *extack)
{
	struct bpf_prog *old;
	int err;

	if (!zcnic_xdp_mtu_valid(prog, zn->dev->mtu)) {
		NL_SET_ERR_MSG_FMT_MOD(extack,
				       "single-buffer XDP takes an MTU of up to %lu",
				       (unsigned long)ZCNIC_XDP_MAX_MTU);
		return -ERANGE;
	}
	/* the buffers are there before the program and as long as it is */
	if (prog && !zn->xdp) {
		err = zcnic_xdp_enter(zn);
		if (err)
			return err;
	}
	old = xchg(&zn->xdp_prog, prog);
	if (old)
		bpf_prog_put(old);
	if (!prog && zn->xdp)
		zcnic_pairs_leave_xdp(zn);
	if (!prog && zn->xdp)
		zcnic_service_schedule(zn);
	return 0;
}

int zcnic_bpf(struct net_device *dev, struct netdev_bpf *bpf)
{
	struct zcnic *zn = netdev_priv(dev);

	switch (bpf->command) {
	case XDP_SETUP_PROG:
		return zcnic_xdp_setup(zn, bpf->prog, bpf->extack);
	case XDP_SETUP_XSK_POOL:
		return zcnic_xsk_setup(zn, bpf->xsk.pool, bpf->xsk.queue_id);
	default:
		return -EINVAL;
	}
}

/* Return: the longest MTU whose frames fit the buffers of all pools. */
static unsigned int zcnic_pools_max_mtu(const struct zcnic *zn)
{
	u32 mtu = U32_MAX;
	u16 i;

	for (i = 0; i < zn->pair_count; i++)
		if (zn->pairs[i].xsk)
			mtu = min(mtu, zcnic_xsk_max_mtu(zn->pairs[i].xsk));
	return mtu;
}

int zcnic_change_mtu(struct net_device *dev, int mtu)
{
	struct zcnic *zn = netdev_priv(dev);
	unsigned int max;
	int err;

	if (!zcnic_xdp_mtu_valid(zn->xdp_prog, mtu)) {
		netdev_err(dev, "single-buffer XDP takes an MTU of up to %lu\n",
			   (unsigned long)ZCNIC_XDP_MAX_MTU);
		return -ERANGE;
	}
	max = zcnic_pools_max_mtu(zn);
	if (mtu > max) {
		netdev_err(dev, "an AF_XDP socket's buffers take an MTU of up to %u\n",
			   max);
		return -ERANGE;
	}
	err = zcnic_send_mtu(zn, mtu);
	if (err && !zcnic_disconnected(err))
		return err;
	WRITE_ONCE(dev->mtu, mtu);
	return 0;
}
