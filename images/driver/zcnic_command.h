/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Talking to the device: commands, events, settings that are commands, and
 * requests to the work item that owns sessions and resets.
 */
#ifndef ZCNIC_COMMAND_H
#define ZCNIC_COMMAND_H

#include "zcnic.h"

/**
 * zcnic_disconnected() - distinguish a lost session from a refusal
 * @err: from zcnic_command()
 *
 * Return: whether the request was not executed, or its result is unknown.
 */
static inline bool zcnic_disconnected(int err)
{
	return err == -ENOTCONN;
}

/* zcnic_service.c */
void zcnic_service_schedule(struct zcnic *zn);
void zcnic_request_reset(struct zcnic *zn);
void zcnic_request_session(struct zcnic *zn);
void zcnic_orphaned(struct zcnic *zn);

/* zcnic_command.c */
int zcnic_command(struct zcnic *zn, u16 opcode, void *request,
		  size_t request_length, void *response,
		  size_t response_length);
int zcnic_hello(struct zcnic *zn);
int zcnic_queue_command(struct zcnic *zn, u16 opcode, u16 queue);
void zcnic_command_callback(struct virtqueue *vq);
void zcnic_command_clean(struct zcnic *zn);

/* zcnic_event.c */
void zcnic_event_callback(struct virtqueue *vq);
void zcnic_events_post(struct zcnic *zn);
void zcnic_events_clean(struct zcnic *zn);

/* zcnic_config.c */
int zcnic_send_offloads(struct zcnic *zn, netdev_features_t features);
int zcnic_send_rx_mode(struct zcnic *zn);
int zcnic_send_mtu(struct zcnic *zn, u32 mtu);
int zcnic_send_coalesce(struct zcnic *zn);
void zcnic_update_features(struct zcnic *zn);

#endif /* ZCNIC_COMMAND_H */
