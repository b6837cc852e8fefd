-- A member's attributes hold from the day of registration; NULL is a category of its own.
SELECT
    member AS user_id,
    landed_on AS valid_from,
    landed_on AS registered_on,
    gender,
    region,
    city_tier,
    language,
    device,
    channel,
    payment_method,
    favourite_city,
    age_at_registration
FROM members
WHERE landed_on BETWEEN :first_day AND :last_day
