// SPDX-License-Identifier: GPL-2.0-only
/*
 * Requests to the service work, which alone resets the device and begins
 * sessions. Anything may ask for it; zcnic_session.c has the work.
 */
#include "zcnic_command.h"

/**
 * zcnic_service_schedule() - run the service work now
 * @zn: the device
 *
 * May be called from any context.
 */
void zcnic_service_schedule(struct zcnic *zn)
{
	mod_delayed_work(system_dfl_wq, &zn->service, 0);
}

/**
 * zcnic_request_reset() - ask for a device reset
 * @zn: the device
 *
 * May be called from any context.
 */
void zcnic_request_reset(struct zcnic *zn)
{
	if (!test_and_set_bit(ZCNIC_WORK_RESET, &zn->work))
		zcnic_service_schedule(zn);
}

/**
 * zcnic_request_session() - ask for a new session
 * @zn: the device; the caller holds the instance lock, not the command lock
 *
 * For a device whose state is not the one that the driver expects. Until the
 * new session no command is sent.
 */
void zcnic_request_session(struct zcnic *zn)
{
	mutex_lock(&zn->command_lock);
	zn->live = false;
	mutex_unlock(&zn->command_lock);
	zcnic_service_schedule(zn);
}

/**
 * zcnic_orphaned() - note that a stopped queue left chains in its ring
 * @zn: the device; the caller holds the instance lock
 *
 * The service work resets the device if no HELLO returns them in time.
 */
void zcnic_orphaned(struct zcnic *zn)
{
	if (!zn->orphans_since) {
		zn->orphans_since = jiffies;
		if (!zn->orphans_since)
			zn->orphans_since = 1;
	}
	zcnic_service_schedule(zn);
}
