package demo

// What the generator draws from.

var givenNames = []string{
	"Amber", "Aspen", "Basil", "Birch", "Briar", "Cedar", "Clover", "Coral", "Dale", "Ember", "Fern", "Flint",
	"Hazel", "Heath", "Iris", "Ivy", "Jade", "Juniper", "Laurel", "Linden", "Maple", "Olive", "Pearl", "Reed",
	"Robin", "Rowan", "Ruby", "Sage", "Sky", "Wren",
}

var familyNames = []string{
	"Bridge", "Brook", "Cliff", "Dell", "Field", "Forge", "Glen", "Grove", "Harbour", "Hill", "Lake", "Marsh",
	"Meadow", "Mill", "Moor", "Orchard", "Park", "Pond", "Quarry", "Ridge", "Shore", "Stone", "Tower", "Vale",
	"Wharf", "Wold",
}

type product struct {
	sku, title, about string
	cents             int64
}

var products = []product{
	{"SKU-LAMP-01", "Clamp lamp", "It swivels and takes any E14 bulb.", 3900},
	{"SKU-LAMP-02", "Brass reading lamp", "It dims in four steps.", 12900},
	{"SKU-KETTLE-01", "Pour-over kettle", "It holds 0.9 litres and works on induction.", 4900},
	{"SKU-KETTLE-02", "Electric kettle", "It holds 1.7 litres and switches itself off.", 6900},
	{"SKU-CHAIR-04", "Folding chair", "It carries 110 kg and weighs 4 kg.", 5900},
	{"SKU-CHAIR-07", "Oak desk chair", "The seat is adjustable from 42 to 54 cm.", 29900},
	{"SKU-DESK-02", "Standing desk", "It moves between 65 and 125 cm.", 54900},
	{"SKU-SHELF-03", "Wall shelf", "It carries 20 kg on two brackets.", 4500},
	{"SKU-RUG-05", "Wool rug", "It measures 160 by 230 cm.", 18900},
	{"SKU-TENT-03", "Two-person tent", "It packs to 40 cm and weighs 2.4 kg.", 8900},
	{"SKU-BAG-06", "Canvas backpack", "It holds 22 litres.", 7400},
	{"SKU-BOTTLE-01", "Steel bottle", "It keeps drinks warm for 12 hours.", 2900},
	{"SKU-PAN-02", "Iron pan", "It has to be seasoned before first use.", 5200},
	{"SKU-KNIFE-01", "Paring knife", "The blade is 9 cm long.", 2400},
	{"SKU-TOWEL-04", "Linen towel", "It can be washed at 60 degrees.", 1900},
	{"SKU-CLOCK-02", "Wall clock", "It runs on one AA battery.", 3400},
	{"SKU-FRAME-03", "Picture frame", "It fits prints of 30 by 40 cm.", 2600},
	{"SKU-MAT-01", "Yoga mat", "It is 6 mm thick.", 3900},
	{"SKU-SPEAKER-02", "Kitchen speaker", "It plays for ten hours on one charge.", 9900},
	{"SKU-BIKE-09", "Bicycle light set", "It charges over USB-C.", 3200},
}

var topics = []struct{ subject, body string }{
	{"Delivery of order {order} is late", "The {item} of order {order} has not come yet. The tracking page has not changed for three days."},
	{"The {item} arrived damaged", "The {item} from order {order} came with a dent. I can send photographs. I would like a replacement."},
	{"Wrong item in order {order}", "I ordered the {item} and got something else. Please tell me how to send it back."},
	{"Invoice for order {order}", "I need an invoice with our company's name for order {order}."},
	{"Change of address for order {order}", "I have moved. Can order {order} go to my new address?"},
	{"How do I return the {item}?", "I would like to return the {item} of order {order}. Where do I get a label?"},
	{"The {item} does not work", "The {item} of order {order} stopped working after two weeks. Is that covered by the warranty?"},
	{"Cancel order {order}", "Please cancel order {order} if it has not left the warehouse."},
	{"Charged twice for order {order}", "My statement shows two payments for order {order}. Please check and send one back."},
	{"Gift wrapping for order {order}", "Can the {item} be gift-wrapped? It is for the end of the month."},
}

var articles = []struct{ slug, title, body string }{
	{"returns_howto", "How to return an item", "You can return an item within 30 days after delivery. Print the return label from your account and hand the parcel in at any post office. The item must be unused and in its original packaging."},
	{"exchange", "Exchanges", "To exchange an item, return it and place a new order. The price of the new order is charged at once; the refund follows when the return arrives."},
	{"damaged", "Damaged items", "Report a damaged item within 14 days and send a photograph. We send a replacement free of charge, or pay the price back if there is none in stock."},
	{"warranty", "Warranty", "All products have a warranty of two years. The warranty covers faults of material and make, not wear. Keep the invoice: it is the proof of purchase."},
	{"address_change", "Changing the delivery address", "The delivery address can be changed until the order is shipped. After that the carrier can redirect the parcel for a fee of $4.00."},
	{"cancel_order", "Cancelling an order", "An order can be cancelled while its status is processing. Shipped orders have to be returned instead."},
	{"invoice", "Invoices", "Invoices are in your account under each order. Company details can be added within 30 days after the purchase."},
	{"payment_methods", "Payment methods", "We take credit cards, debit cards and bank transfer. Bank transfers must arrive within 7 days, or the order is cancelled."},
	{"double_charge", "Charged twice", "A second payment is usually a reservation that the bank lifts by itself within 3 business days. If it is still there after that, we pay it back."},
	{"gold_tier", "Gold customers", "Customers become gold after ten orders within a year. Gold customers get free express shipping and a return period of 60 days."},
	{"gift_cards", "Gift cards", "Gift cards are valid for three years and cannot be exchanged for money. A refund of an order paid by gift card goes back to the card."},
	{"gift_wrap", "Gift wrapping", "Gift wrapping costs $3.50 per item and can be chosen at the checkout. It cannot be added after the order was placed."},
	{"lost_parcel", "Lost parcels", "A parcel counts as lost when its tracking has not changed for ten days. We then send the item again or pay the price back."},
	{"tracking", "Tracking a parcel", "The tracking number is in the message that we send when the order is shipped. Tracking starts within 24 hours."},
	{"price_match", "Price matching", "If the price falls within 7 days after the purchase, we pay the difference back on request."},
	{"account_delete", "Deleting an account", "An account is deleted within 30 days after the request. Invoices are kept as long as the law requires."},
	{"privacy", "Personal data", "Support staff see name, e-mail address, tier and orders. Dates of birth are used for age checks only and are not shown to support staff."},
	{"refund_methods", "How refunds are paid", "A refund goes back the way the payment came. Card refunds show on the statement within 2 business days after we send them. Payments contacts the customer if the account has been closed."},
	{"bulk_orders", "Bulk orders", "Orders of more than 20 equal items get a discount that the sales team offers. Bulk orders cannot be returned in part."},
	{"international", "International delivery", "We deliver to 14 countries. International delivery takes 6–12 business days; customs duties are paid by the customer."},
	{"spare_parts", "Spare parts", "Spare parts can be ordered for two years after the purchase. Screws and feet are free."},
	{"recycling", "Recycling", "Old lamps and batteries can be handed in at any of our stores free of charge."},
}
