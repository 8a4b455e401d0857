/* SPDX-License-Identifier: GPL-2.0-only */
/* The life of the device: virtqueues, resets, sessions. */
#ifndef ZCNIC_SESSION_H
#define ZCNIC_SESSION_H

#include "zcnic.h"

/* zcnic_vqs.c */
int zcnic_vqs_init(struct zcnic *zn);
void zcnic_vqs_del(struct zcnic *zn);
int zcnic_vqs_enable_pairs(struct zcnic *zn);

/* zcnic_reset.c */
int zcnic_device_start(struct zcnic *zn);
void zcnic_device_stop(struct zcnic *zn);
void zcnic_device_detach(struct zcnic *zn);
int zcnic_reset(struct zcnic *zn);
int zcnic_reset_prepare(struct virtio_device *vdev);
int zcnic_reset_done(struct virtio_device *vdev);
int zcnic_freeze(struct virtio_device *vdev);
int zcnic_restore(struct virtio_device *vdev);

/* zcnic_session.c */
void zcnic_session_init(struct zcnic *zn);
int zcnic_session_establish(struct zcnic *zn);
void zcnic_set_max_mtu(struct zcnic *zn);

#endif /* ZCNIC_SESSION_H */
