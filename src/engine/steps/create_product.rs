//! `create-product`: makes the product, in the turn for its name.

use serde_json::{Map, Value};

use super::{Did, unexpected};
use crate::{
    domain::{
        failure::{Cause, Failure, Kind},
        ids::Marker,
        job::Target,
        service::{NewProduct, Request},
        step::Step,
        ticket::StepResult,
    },
    engine::{
        claimed::{Claimed, Stop},
        ports::{Ports, TurnKey, Turns},
    },
};

impl<P: Ports> Claimed<'_, P> {
    pub(super) async fn create_product(&self) -> Result<Did, Stop> {
        let members = self.product_members()?;
        let turns = [self.name_turn(&members)];
        let request = Request::CreateProduct(NewProduct { members });
        let answer = self.write(&turns, &request).await?;
        let product = answer.response.into_product().ok_or_else(|| unexpected("createProduct"))?;
        // ORDER: the owner is written before the result is recorded; only then is the turn over (docs/protocol.md).
        self.ports.home().own(&self.key.account, product.id, &self.key).await?;
        for turn in turns {
            self.spend_turn(turn);
        }
        Ok(Did::done(StepResult::CreateProduct { id: product.id, shared_id: product.shared_id, adopted: false }))
    }

    /// The body that is sent: the members as written, the name marked when that is switched on.
    pub(in crate::engine) fn product_members(&self) -> Result<Map<String, Value>, Stop> {
        let Target::Create(members) = &self.taken.work.product else {
            let cause = Cause::new(Kind::Internal, "the job makes no product");
            return Err(Stop::Failed(Failure::Permanent(cause)));
        };
        let mut members = members.clone();
        if self.settings.markers_of(&self.key.account).products
            && let Some(Value::String(name)) = members.get_mut("productName")
        {
            *name = Marker::of(&self.key, Step::CreateProduct.name()).mark(name);
        }
        Ok(members)
    }

    /// Creates of one (account, product name) take turns.
    pub(in crate::engine) fn name_turn(&self, members: &Map<String, Value>) -> TurnKey {
        let name = members.get("productName").and_then(Value::as_str).unwrap_or_default();
        TurnKey::Name(self.key.account.clone(), name.to_owned())
    }
}
