//! Generic netlink (linux/genetlink.h): families of requests that the kernel numbers as it loads them.

use std::fmt;

use netlink_packet_generic::{
    GenlFamily, GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use rtnetlink::sys::protocols::NETLINK_GENERIC;

use super::{Error, Refusal, netlink::Channel};

/// A socket to the family that `F` is a message of.
#[derive(Clone, Debug)]
pub struct Family<F: fmt::Debug> {
    channel: Channel<GenlMessage<F>>,
    number: u16,
}

impl<F> Family<F>
where
    F: GenlFamily + fmt::Debug + Clone,
    GenlMessage<F>: super::netlink::Message,
{
    /// Opens a socket in the calling thread's network namespace. The kernel loads the family's module
    /// if it has one; `ENOENT` means that there is no such family.
    pub async fn open() -> Result<Self, Error> {
        let name = F::family_name();
        let number = number(name).await.map_err(|source| Error::Family { name, source })?;
        Ok(Self { channel: Channel::to(NETLINK_GENERIC)?, number })
    }

    /// All that answers `request`.
    pub async fn dump(&self, request: F) -> Result<Vec<F>, Refusal> {
        let answers = self.channel.dump(self.message(request)).await?;
        Ok(answers.into_iter().map(|answer| answer.payload).collect())
    }

    /// Has the kernel do `request`.
    pub async fn change(&self, request: F) -> Result<(), Refusal> {
        self.channel.change(self.message(request), 0).await
    }

    fn message(&self, request: F) -> GenlMessage<F> {
        let mut message = GenlMessage::from_payload(request);
        message.set_resolved_family_id(self.number);
        message
    }
}

/// The kernel's number for the family of this name.
async fn number(name: &str) -> Result<u16, Refusal> {
    let channel = Channel::to(NETLINK_GENERIC).map_err(|_| Refusal::Closed)?;
    let request = GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![GenlCtrlAttrs::FamilyName(name.to_owned())] };
    let answer: GenlMessage<GenlCtrl> = channel.get(GenlMessage::from_payload(request)).await?;
    let number = answer.payload.nlas.iter().find_map(|attribute| match attribute {
        GenlCtrlAttrs::FamilyId(number) => Some(*number),
        _ => None,
    });
    number.ok_or(Refusal::Closed)
}
