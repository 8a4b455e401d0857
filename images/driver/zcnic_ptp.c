// SPDX-License-Identifier: GPL-2.0-only
/*
 * The port's clock, and which frames are stamped with it.
 *
 * The device adjusts a port's clock: it follows the clock of the whole backend
 * with a phase and a frequency of its own. A new session begins without them.
 */
#include <linux/ptp_clock_kernel.h>

#include "zcnic_command.h"
#include "zcnic_netdev.h"

static struct zcnic *zcnic_of(struct ptp_clock_info *info)
{
	return container_of(info, struct zcnic, ptp_info);
}

/*
 * Have the device tell or change the time. The caller holds clock_lock.
 *
 * Return: as zcnic_command(); -ENOTCONN as well if another session began
 * meanwhile, whose clock is not the adjusted one.
 */
static int zcnic_clock_command(struct zcnic *zn, u16 opcode, void *request,
			       size_t size)
{
	struct zcnic_clock_response response;
	u64 session = READ_ONCE(zn->session);
	int err;

	lockdep_assert_held(&zn->clock_lock);
	err = zcnic_command(zn, opcode, request, size, &response,
			    sizeof(response));
	if (err)
		return err;
	if (session != READ_ONCE(zn->session))
		return -ENOTCONN;
	zn->clock_port = le64_to_cpu(response.nanoseconds);
	zn->clock_device = le64_to_cpu(response.device_nanoseconds);
	return 0;
}

static int zcnic_clock_read(struct zcnic *zn)
{
	struct zcnic_request request;

	return zcnic_clock_command(zn, ZCNIC_CMD_CLOCK, &request,
				   sizeof(request));
}

static int zcnic_clock_adjust(struct zcnic *zn, s64 step)
{
	struct zcnic_clock_adjust request = {
		.step = cpu_to_le64(step),
		.frequency = cpu_to_le64(zn->clock_frequency),
	};

	return zcnic_clock_command(zn, ZCNIC_CMD_CLOCK_ADJUST, &request,
				   sizeof(request));
}

/* Go on with the adjusted time, if the session is new. */
static int zcnic_clock_continue(struct zcnic *zn)
{
	u64 session = READ_ONCE(zn->session);
	u64 device = zn->clock_device;
	u64 port = zn->clock_port;
	u64 elapsed;
	int err;

	if (session == zn->clock_session)
		return 0;
	if (port != device || zn->clock_frequency) {
		err = zcnic_clock_read(zn);
		if (err)
			return err;
		/* another backend's clock goes on roughly where this one was */
		elapsed = zn->clock_device - min(device, zn->clock_device);
		elapsed = adjust_by_scaled_ppm(elapsed, zn->clock_frequency);
		err = zcnic_clock_adjust(zn, port + elapsed - zn->clock_device);
		if (err) {
			zn->clock_device = device;
			zn->clock_port = port;
			return err;
		}
	}
	zn->clock_session = session;
	return 0;
}

/**
 * zcnic_clock_replay() - go on with the adjusted time in a new session
 * @zn: the device, which has forgotten the adjustments
 *
 * Return: as zcnic_command().
 */
int zcnic_clock_replay(struct zcnic *zn)
{
	int err = 0;

	mutex_lock(&zn->clock_lock);
	if (zn->features & BIT_ULL(ZCNIC_F_TIMESTAMP))
		err = zcnic_clock_continue(zn);
	mutex_unlock(&zn->clock_lock);
	return err;
}

static int zcnic_ptp_gettimex(struct ptp_clock_info *info,
			      struct timespec64 *time,
			      struct ptp_system_timestamp *system)
{
	struct zcnic *zn = zcnic_of(info);
	int err;

	mutex_lock(&zn->clock_lock);
	err = zcnic_clock_continue(zn);
	if (err)
		goto unlock;
	ptp_read_system_prets(system);
	err = zcnic_clock_read(zn);
	ptp_read_system_postts(system);
	if (!err)
		*time = ns_to_timespec64(zn->clock_port);
unlock:
	mutex_unlock(&zn->clock_lock);
	return err;
}

static int zcnic_ptp_adjtime(struct ptp_clock_info *info, s64 delta)
{
	struct zcnic *zn = zcnic_of(info);
	int err;

	mutex_lock(&zn->clock_lock);
	err = zcnic_clock_continue(zn);
	if (!err)
		err = zcnic_clock_adjust(zn, delta);
	/* without a session the next one gets it */
	if (zcnic_disconnected(err)) {
		zn->clock_port += delta;
		err = 0;
	}
	mutex_unlock(&zn->clock_lock);
	return err;
}

static int zcnic_ptp_settime(struct ptp_clock_info *info,
			     const struct timespec64 *time)
{
	struct timespec64 now;
	s64 delta;
	int err;

	err = zcnic_ptp_gettimex(info, &now, NULL);
	if (err)
		return err;
	delta = timespec64_to_ns(time) - timespec64_to_ns(&now);
	return zcnic_ptp_adjtime(info, delta);
}

static int zcnic_ptp_adjfine(struct ptp_clock_info *info, long scaled_ppm)
{
	struct zcnic *zn = zcnic_of(info);
	long was;
	int err;

	mutex_lock(&zn->clock_lock);
	err = zcnic_clock_continue(zn);
	was = zn->clock_frequency;
	zn->clock_frequency = scaled_ppm;
	if (!err)
		err = zcnic_clock_adjust(zn, 0);
	/* without a session the next one gets it */
	if (zcnic_disconnected(err))
		err = 0;
	if (err)
		zn->clock_frequency = was;
	mutex_unlock(&zn->clock_lock);
	return err;
}

/**
 * zcnic_ptp_register() - make the clock a PTP clock, if the device has one
 * @zn: the device
 */
void zcnic_ptp_register(struct zcnic *zn)
{
	zn->ptp_info = (struct ptp_clock_info) {
		.owner		= THIS_MODULE,
		.name		= KBUILD_MODNAME,
		.max_adj	= ZCNIC_CLOCK_MAX_PPB,
		.gettimex64	= zcnic_ptp_gettimex,
		.settime64	= zcnic_ptp_settime,
		.adjtime	= zcnic_ptp_adjtime,
		.adjfine	= zcnic_ptp_adjfine,
	};
	if (!(zn->features & BIT_ULL(ZCNIC_F_TIMESTAMP)))
		return;
	zn->ptp = ptp_clock_register(&zn->ptp_info, &zn->vdev->dev);
	if (IS_ERR(zn->ptp)) {
		dev_warn(&zn->vdev->dev, "no PTP clock: %ld\n",
			 PTR_ERR(zn->ptp));
		zn->ptp = NULL;
	}
}

/**
 * zcnic_ptp_unregister() - remove the PTP clock, if there is one
 * @zn: the device
 */
void zcnic_ptp_unregister(struct zcnic *zn)
{
	if (zn->ptp)
		ptp_clock_unregister(zn->ptp);
	zn->ptp = NULL;
}

int zcnic_get_ts_info(struct net_device *dev,
		      struct kernel_ethtool_ts_info *info)
{
	struct zcnic *zn = netdev_priv(dev);

	info->so_timestamping = SOF_TIMESTAMPING_TX_SOFTWARE;
	if (!(zn->features & BIT_ULL(ZCNIC_F_TIMESTAMP)))
		return 0;
	info->so_timestamping |= SOF_TIMESTAMPING_TX_HARDWARE |
				 SOF_TIMESTAMPING_RX_HARDWARE |
				 SOF_TIMESTAMPING_RAW_HARDWARE;
	info->tx_types = BIT(HWTSTAMP_TX_OFF) | BIT(HWTSTAMP_TX_ON);
	info->rx_filters = BIT(HWTSTAMP_FILTER_NONE) | BIT(HWTSTAMP_FILTER_ALL);
	if (zn->ptp)
		info->phc_index = ptp_clock_index(zn->ptp);
	return 0;
}

int zcnic_hwtstamp_get(struct net_device *dev,
		       struct kernel_hwtstamp_config *config)
{
	struct zcnic *zn = netdev_priv(dev);

	config->tx_type = zn->tx_type;
	config->rx_filter = zn->rx_filter;
	return 0;
}

int zcnic_hwtstamp_set(struct net_device *dev,
		       struct kernel_hwtstamp_config *config,
		       struct netlink_ext_ack *extack)
{
	struct zcnic *zn = netdev_priv(dev);
	int was = zn->rx_filter;
	int err;

	if (!(zn->features & BIT_ULL(ZCNIC_F_TIMESTAMP)))
		return -EOPNOTSUPP;
	if (config->tx_type != HWTSTAMP_TX_OFF &&
	    config->tx_type != HWTSTAMP_TX_ON)
		return -ERANGE;
	/* the device stamps all received frames or none */
	if (config->rx_filter != HWTSTAMP_FILTER_NONE)
		config->rx_filter = HWTSTAMP_FILTER_ALL;
	zn->rx_filter = config->rx_filter;
	err = zcnic_send_offloads(zn, dev->features);
	if (err && !zcnic_disconnected(err)) {
		zn->rx_filter = was;
		return err;
	}
	WRITE_ONCE(zn->tx_type, config->tx_type);
	return 0;
}
