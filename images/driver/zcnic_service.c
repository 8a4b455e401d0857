// SPDX-License-Identifier: GPL-2.0-only
#include "zcnic.h"

/**
 * zcnic_service_schedule() - have the service work look after the device
 * @zn: the device
 *
 * From any context.
 */
void zcnic_service_schedule(struct zcnic *zn)
{
	mod_delayed_work(system_dfl_wq, &zn->service, 0);
}

/**
 * zcnic_request_reset() - ask for a device reset
 * @zn: the device
 *
 * From any context.
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
 * For when the device is not in the state that it should be in. Until then nobody talks to it.
 */
void zcnic_request_session(struct zcnic *zn)
{
	mutex_lock(&zn->command_lock);
	zn->live = false;
	mutex_unlock(&zn->command_lock);
	zcnic_service_schedule(zn);
}

/**
 * zcnic_orphaned() - note that chains are left in a ring
 * @zn: the device
 */
void zcnic_orphaned(struct zcnic *zn)
{
	if (!zn->orphans_since)
		zn->orphans_since = jiffies ?: 1;
	zcnic_service_schedule(zn);
}
