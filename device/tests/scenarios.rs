//! The model's scenarios against the device in process. The same scenarios run against the daemon
//! in `backend/tests`.

zcnic_model::suite!(zcnic_model::in_process::cabled);
